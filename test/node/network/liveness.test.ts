import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { create } from '@bufbuild/protobuf'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { multiaddrConnectionPair } from '@libp2p/utils'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { Gate } from '../../../src/node/network/gate.ts'
import { createMidspanNode, type MidspanNode, type NodeOptions, type Role } from '../../../src/node/network/libp2p.ts'
import { Liveness, watchLiveness } from '../../../src/node/network/liveness.ts'
import { leastPauseMs, ServerLinks } from '../../../src/node/network/server-links.ts'
import { protocolId } from '../../../src/protocols/charter/index.ts'
import { AnswerSchema } from '../../../src/protocols/hello/hello_pb.ts'
import { asHost } from '../../../src/protocols/hello/messages.ts'
import { ControlStream } from '../../../src/protocols/wire/control.ts'
import type { Logger } from '../../../src/roles/context.ts'
import { loopback } from '../fixture.ts'

const silent: Logger = { debug () {}, info () {}, warn () {}, error () {} }
const PATIENT = { timeout: 20_000, interval: 20 }

async function nodeOf (role: Role, options: Partial<NodeOptions> = {}): Promise<MidspanNode> {
  const node = await createMidspanNode({ privateKey: await generateKeyPair('Ed25519'), role, listen: [], ...options })
  onTestFinished(async () => { await node.stop() })
  return node
}

function portOf (node: MidspanNode): number {
  return Number(node.getMultiaddrs()[0]?.getComponents().find(({ name }) => name === 'tcp')?.value)
}

/** A server that welcomes whoever says hello. */
async function welcoming (options: Partial<NodeOptions> = {}): Promise<{ node: MidspanNode, gate: Gate }> {
  const node = await nodeOf('server', { listen: loopback, ...options })
  const gate = new Gate(node, silent)
  await node.handle(protocolId('hello'), async (stream, connection) => {
    const control = new ControlStream(stream, asHost)
    await control.read()
    gate.greet(connection.remotePeer, 'client', 'test')
    gate.supersede(connection)
    await control.write(create(AnswerSchema, { answer: { case: 'welcome', value: { agent: 'test', role: 'server', charterLength: 0 } } }))
    await control.close()
  })
  await node.start()
  return { node, gate }
}

async function linked (server: MidspanNode, port: number, options: Partial<NodeOptions> = {}) {
  const node = await nodeOf('client', options)
  const gate = new Gate(node, silent)
  await node.start()
  const links = new ServerLinks({
    node, gate, logger: silent, role: 'client', charterHash: new Uint8Array(32),
    servers: [{ peerId: server.peerId.toString(), addresses: [`/ip4/127.0.0.1/tcp/${port}`] }]
  })
  onTestFinished(async () => { await links.stop() })
  return { node, gate, links }
}

/** A way through the network that can lose the connections it carries, without a word to either end. New connections get through. */
async function lossyWay (targetPort: number): Promise<{ port: number, lose: () => void }> {
  const sockets = new Set<Socket>()
  const lost = new Set<Socket>()
  const server = createServer((near) => {
    const far = connect(targetPort, '127.0.0.1')
    for (const [from, to] of [[near, far], [far, near]] as const) {
      sockets.add(from)
      from.on('error', () => {})
      from.on('data', (bytes) => { if (!lost.has(from)) to.write(bytes) })
      from.on('close', () => { if (!lost.has(from)) to.destroy() })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return {
    port: (server.address() as { port: number }).port,
    lose: () => { for (const socket of sockets) lost.add(socket) }
  }
}

describe('liveness', () => {
  it('ends after so many checks in silence, and a sign of life begins the count anew', () => {
    const liveness = new Liveness(3)
    expect([liveness.check(), liveness.check()]).toEqual([false, false])
    liveness.sign()
    expect([liveness.check(), liveness.check(), liveness.check()]).toEqual([false, false, true])
  })

  it('counts bytes that came in and a full socket that takes more, by a clock that is given', () => {
    const [near] = multiaddrConnectionPair()
    let tick = (): void => {}
    watchLiveness(near, 45_000, (intervalMs, callback) => {
      expect(intervalMs).toBe(5_000)
      tick = callback
      return () => { tick = () => {} }
    })
    for (let check = 0; check < 30; check++) {
      near.dispatchEvent(new Event(check % 15 < 8 ? 'drain' : 'none'))
      tick()
      expect(near.status).toBe('open')
    }
    for (let check = 0; check < 9; check++) tick()
    expect(near.status).toBe('aborted')
  })
})

describe('a connection', { timeout: 60_000 }, () => {
  it('that went silent is closed on both sides and dialled again', async () => {
    const { node: server, gate: serverGate } = await welcoming({ silenceTimeoutMs: 900 })
    const way = await lossyWay(portOf(server))
    const { gate, links, node } = await linked(server, way.port, { silenceTimeoutMs: 900 })
    await links.start()
    expect(gate.isGreeted(server.peerId)).toBe(true)
    const gone = vi.fn()
    serverGate.onDisconnect(gone)
    const [first] = node.getConnections(server.peerId)
    way.lose()
    await vi.waitFor(() => { expect(first?.status).not.toBe('open') }, PATIENT)
    await vi.waitFor(() => { expect(gate.isGreeted(server.peerId)).toBe(true) }, PATIENT)
    expect(node.getConnections(server.peerId)[0]).not.toBe(first)
  })

  it('that is quiet stays: its ends ping each other', async () => {
    const { node: server } = await welcoming({ silenceTimeoutMs: 900 })
    const { links, node } = await linked(server, portOf(server), { silenceTimeoutMs: 900 })
    await links.start()
    const [first] = node.getConnections(server.peerId)
    await new Promise((resolve) => { setTimeout(resolve, 2_500) })
    expect(first?.status).toBe('open')
  })

  it('of a peer that moves again and again is welcomed each time, and the older ones are closed', async () => {
    const { node: server, gate } = await welcoming()
    const way = await lossyWay(portOf(server))
    const key = await generateKeyPair('Ed25519')
    for (let move = 0; move < 7; move++) {
      const { node, gate: clientGate, links } = await linked(server, way.port, { privateKey: key })
      await links.start()
      expect(clientGate.isGreeted(server.peerId)).toBe(true)
      expect(gate.isGreeted(node.peerId)).toBe(true)
      await vi.waitFor(() => { expect(server.getConnections(node.peerId)).toHaveLength(1) }, PATIENT)
      way.lose()
    }
  })
})

describe('links to a server', { timeout: 60_000 }, () => {
  it('dial at once when they are asked to', async () => {
    const { node: server } = await welcoming()
    const port = portOf(server)
    await server.stop()
    const { gate, links, node } = await linked(server, port)
    vi.spyOn(Math, 'random').mockReturnValue(-1e6)
    onTestFinished(() => { vi.restoreAllMocks() })
    await links.start()
    expect(gate.isGreeted(server.peerId)).toBe(false)
    expect(links.failure()?.message).toMatch(new RegExp(`/ip4/127.0.0.1/tcp/${port}: connection refused`))
    await server.start()
    const dialled = vi.spyOn(node.services.transports, 'dial')
    links.dialNow()
    await vi.waitFor(() => { expect(dialled).toHaveBeenCalled() }, PATIENT)
  })

  it('dial about once a second for the first hour, and less often then or where they were refused', () => {
    expect([0, 3_599_999, 3_600_000].map((awayMs) => leastPauseMs(false, awayMs))).toEqual([0, 0, 10_000])
    expect(leastPauseMs(true, 0)).toBe(60_000)
  })
})
