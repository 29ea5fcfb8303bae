import { once } from 'node:events'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Connection } from '@libp2p/interface'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { MAX_INBOUND_STREAMS } from '../../../src/node/network/connection-guard.ts'
import { Gate } from '../../../src/node/network/gate.ts'
import { createMidspanNode, type MidspanNode } from '../../../src/node/network/libp2p.ts'
import type { Logger } from '../../../src/roles/context.ts'
import { silentSocket, startAttacker, yamuxFrames, yamuxHeader, type Attacker, type RawConnection } from '../../helpers/attacker.ts'
import { loopback } from '../fixture.ts'

const PATIENT = { timeout: 15_000, interval: 50 }

async function serverOf (options: { maxConnections?: number } = {}) {
  const lines: string[] = []
  const log = (details: object, message: string): void => { lines.push(`${message} ${JSON.stringify(details)}`) }
  const logger: Logger = { debug () {}, info: log, warn: log, error: log }
  const node = await createMidspanNode({ privateKey: await generateKeyPair('Ed25519'), role: 'server', listen: loopback, ...options })
  const gate = new Gate(node, logger)
  await node.start()
  onTestFinished(async () => { await node.stop() })
  const port = Number(node.getMultiaddrs()[0]?.getComponents().find(({ name }) => name === 'tcp')?.value)
  return { node, gate, lines, port }
}

async function attackerOf (localAddress?: string): Promise<Attacker> {
  const attacker = await startAttacker(localAddress)
  onTestFinished(async () => { await attacker.node.stop() })
  return attacker
}

async function connected (server: MidspanNode, localAddress?: string): Promise<RawConnection & { readonly seen: () => Connection[] }> {
  const attacker = await attackerOf(localAddress)
  const raw = await attacker.connect(server.getMultiaddrs())
  const seen = (): Connection[] => server.getConnections(attacker.node.peerId)
  await vi.waitFor(() => { expect(seen()).toHaveLength(1) }, PATIENT)
  return { ...raw, seen }
}

describe('a stranger', { timeout: 40_000 }, () => {
  it('that reads no answers to its pings is let go of', async () => {
    const { node, lines } = await serverOf()
    const { connection, secured, seen } = await connected(node)
    secured.pause()
    secured.send(yamuxFrames(15_000, (index) => yamuxHeader(2, 1, 0, index)))
    await vi.waitFor(() => {
      if (connection.status === 'open') secured.send(yamuxFrames(1_000, (index) => yamuxHeader(2, 1, 0, index)))
      expect(seen()).toEqual([])
    }, PATIENT)
    expect(lines.join('\n')).toMatch(/a connection broke .*(does not read|before it was greeted|asks for answers)/)
  })

  it('that opens and resets streams without end is let go of', async () => {
    const { node, lines } = await serverOf()
    const blame = vi.spyOn(node.services.inbound, 'blame')
    const { secured, seen } = await connected(node)
    secured.send(yamuxFrames(2_000, (index) => yamuxHeader(1, index % 2 === 0 ? 1 : 8, 1001 + 2 * (index >> 1), 0)))
    await vi.waitFor(() => { expect(seen()).toEqual([]) }, PATIENT)
    expect(lines.join('\n')).toMatch(/a connection broke .*opens streams too often/)
    expect(blame.mock.calls).toEqual([[expect.stringMatching(/^\/ip4\/127\.0\.0\.1\/tcp\/\d+$/), 2]])
  })

  it('has few half-open streams, and few bytes', async () => {
    const { node } = await serverOf()
    const { secured, seen } = await connected(node)
    secured.send(yamuxFrames(MAX_INBOUND_STREAMS + 3, (index) => yamuxHeader(1, 1, 1001 + 2 * index, 0)))
    await vi.waitFor(() => { expect(seen()[0]?.streams.length).toBeGreaterThan(20) }, PATIENT)
    expect(seen()[0]?.streams.filter(({ direction }) => direction === 'inbound').length).toBeLessThanOrEqual(MAX_INBOUND_STREAMS)
    secured.send(yamuxFrames(30_000, () => yamuxHeader(1, 0, 999, 0)))
    await vi.waitFor(() => { expect(seen()).toEqual([]) }, PATIENT)
  })

  it('is bound as a member is once it is greeted', async () => {
    const { node, gate } = await serverOf()
    const { secured, seen, connection } = await connected(node)
    const peer = (seen()[0] as Connection).remotePeer
    gate.greet(peer, 'client', 'test')
    secured.send(yamuxFrames(30_000, () => yamuxHeader(1, 0, 999, 0)))
    await new Promise((resolve) => { setTimeout(resolve, 500) })
    expect(connection.status).toBe('open')
    secured.pause()
    await vi.waitFor(() => {
      if (connection.status === 'open') secured.send(yamuxFrames(20_000, (index) => yamuxHeader(2, 1, 0, index)))
      expect(seen()).toEqual([])
    }, { timeout: 30_000, interval: 5 })
  })

  it('is forgotten when it leaves', async () => {
    const { node } = await serverOf()
    const { connection, seen } = await connected(node)
    const peer = (seen()[0] as Connection).remotePeer
    await vi.waitFor(async () => { expect(await node.peerStore.has(peer)).toBe(true) }, PATIENT)
    await connection.close()
    await vi.waitFor(async () => { expect(await node.peerStore.has(peer)).toBe(false) }, PATIENT)
  })
})

describe('a crowd of strangers', { timeout: 40_000 }, () => {
  it('with silent sockets keeps nobody out, from the same address or others', async () => {
    const { node, port, lines } = await serverOf()
    const sockets = Array.from({ length: 120 }, (_, index) => silentSocket(port, index % 2 === 0 ? undefined : `127.0.0.${2 + index}`))
    onTestFinished(() => { for (const socket of sockets) socket.destroy() })
    await Promise.all(sockets.map(async (socket) => { await once(socket, 'connect') }))
    for (const address of [undefined, '127.0.0.99']) await connected(node, address)
    expect(lines.filter((line) => line.startsWith('no room for a connection'))).not.toEqual([])
  })

  it('that idles in every place leaves places for others and for members', async () => {
    const { node, gate } = await serverOf({ maxConnections: 16 })
    const member = await connected(node, '127.0.0.90')
    gate.greet((member.seen()[0] as Connection).remotePeer, 'client', 'member')
    for (let count = 0; count < 16; count++) await (await attackerOf('127.0.0.91')).connect(node.getMultiaddrs()).catch(() => {})
    await new Promise((resolve) => { setTimeout(resolve, 1_100) })
    await connected(node, '127.0.0.92')
    await connected(node, '127.0.0.90')
    expect(member.seen()).toHaveLength(1)
    expect(node.getConnections().length).toBeLessThanOrEqual(16)
  })
})
