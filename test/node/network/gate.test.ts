import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { UsageError } from '../../../src/errors.ts'
import { Gate } from '../../../src/node/network/gate.ts'
import { createMidspanNode, type MidspanNode, type Role } from '../../../src/node/network/libp2p.ts'
import { ControlStream } from '../../../src/protocols/wire/control.ts'
import { FailureSchema } from '../../../src/protocols/wire/wire_pb.ts'
import type { Logger } from '../../../src/roles/context.ts'
import { loopback } from '../fixture.ts'

const silent: Logger = { debug () {}, info () {}, warn () {}, error () {} }

async function nodeOf (role: Role, listen: string[] = []): Promise<MidspanNode> {
  const node = await createMidspanNode({ privateKey: await generateKeyPair('Ed25519'), role, listen })
  onTestFinished(async () => { await node.stop() })
  return node
}

async function gated (helloWithinMs?: number): Promise<{ server: MidspanNode, gate: Gate }> {
  const server = await nodeOf('server', loopback)
  const gate = new Gate(server, silent, helloWithinMs)
  await server.start()
  return { server, gate }
}

describe('a gate', { timeout: 60_000 }, () => {
  it('lets go of peers that do not say hello', async () => {
    const { server } = await gated(50)
    const blame = vi.spyOn(server.services.inbound, 'blame')
    const stranger = await nodeOf('client')
    await stranger.start()
    await stranger.dial(server.getMultiaddrs())
    await vi.waitFor(() => { expect(blame).toHaveBeenCalledOnce() }, 20_000)
    await vi.waitFor(() => { expect(server.getConnections()).toEqual([]) }, 20_000)
  })

  it('keeps those that do', async () => {
    const { server, gate } = await gated(1_000)
    const client = await nodeOf('client')
    await client.start()
    await client.dial(server.getMultiaddrs())
    // The server's side of a connection is there a little later than the dialler's.
    await vi.waitFor(() => { expect(server.getConnections(client.peerId)).toHaveLength(1) }, 20_000)
    gate.greet(client.peerId, 'client', 'test')
    await new Promise((resolve) => { setTimeout(resolve, 1_500) })
    expect(server.getConnections(client.peerId)).toHaveLength(1)
  })

  it('does not let a peer through that is gone before it is greeted', async () => {
    const { gate } = await gated()
    const client = await nodeOf('client')
    gate.greet(client.peerId, 'client', 'test')
    expect(gate.isGreeted(client.peerId)).toBe(false)
  })

  it('stands before a node that takes nothing on the protocol that names its role', async () => {
    const { server } = await gated()
    const stranger = await nodeOf('client')
    await stranger.start()
    const stream = await stranger.dialProtocol(server.getMultiaddrs(), '/midspan/role/server/1.0.0')
    await vi.waitFor(() => { expect(stream.status).toBe('reset') }, 20_000)
  })

  it('lets a handler that fails tell the peer why', async () => {
    const { server, gate } = await gated()
    const client = await nodeOf('client')
    await client.start()
    await gate.handle('/midspan/test/1', async (stream) => {
      const error = new UsageError('not today')
      const control = new ControlStream(stream, { outgoing: FailureSchema, incoming: FailureSchema })
      await control.read()
      control.abort(error)
      throw error
    })
    const connection = await client.dial(server.getMultiaddrs())
    await vi.waitFor(() => { expect(server.getConnections(client.peerId)).toHaveLength(1) }, 20_000)
    gate.greet(client.peerId, 'client', 'test')
    const ends: string[] = []
    const stream = await connection.newStream('/midspan/test/1')
    stream.addEventListener('remoteCloseWrite', () => { ends.push('end') })
    stream.addEventListener('close', () => { ends.push('reset') })
    const reader = new ControlStream(stream, { outgoing: FailureSchema, incoming: FailureSchema })
    await reader.write(create(FailureSchema))
    await expect(reader.read()).rejects.toMatchObject({ code: 'E_USAGE', message: 'not today' })
    await delay(200)
    expect(ends).toEqual(['end'])
  })

  it('gives a peer only a few connections', async () => {
    const { server } = await gated()
    const stranger = await nodeOf('client')
    await stranger.start()
    for (let dial = 0; dial < 8; dial++) await stranger.dial(server.getMultiaddrs(), { force: true }).catch(() => {})
    // The server's side of a connection is there a little later than the dialler's.
    await vi.waitFor(() => { expect(server.getConnections(stranger.peerId)).toHaveLength(4) }, 20_000)
  })
})
