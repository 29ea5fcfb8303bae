import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createMidspanNode } from '../../../src/node/network/libp2p.ts'
import { loopback } from '../fixture.ts'

async function listening () {
  const node = await createMidspanNode({ privateKey: await generateKeyPair('Ed25519'), role: 'server', listen: loopback })
  await node.start()
  onTestFinished(async () => { await node.stop() })
  const port = Number(node.getMultiaddrs()[0]?.getComponents().find(({ name }) => name === 'tcp')?.value)
  return { node, dial: (): Socket => connect({ port, host: '127.0.0.1' }).on('error', () => {}) }
}

/** Resolves when a socket is closed, in whatever way. */
async function closed (socket: Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  socket.resume().once('close', () => { resolve() })
  await promise
}

describe('a guarded listener', { timeout: 30_000 }, () => {
  it('hands libp2p what a peer sent before it was its turn', async () => {
    const { dial } = await listening()
    const socket = dial()
    socket.write('\x13/multistream/1.0.0\n')
    const [answer] = await once(socket, 'data') as [Buffer]
    socket.destroy()
    expect(answer.toString()).toBe('\x13/multistream/1.0.0\n')
  })

  it('lets go of a socket that its peer ended without a word', async () => {
    const { dial } = await listening()
    const socket = dial()
    await once(socket, 'connect')
    socket.end()
    await closed(socket)
  })

  it('has nobody wait for a listener that stops', async () => {
    const { node, dial } = await listening()
    const sockets = Array.from({ length: 3 }, dial)
    await Promise.all(sockets.map(async (socket) => { await once(socket, 'connect') }))
    const ends = sockets.map(closed)
    await node.stop()
    await Promise.all(ends)
  })
})
