import { setTimeout as sleep } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Gate } from '../../../src/node/network/gate.ts'
import { createMidspanNode, type MidspanNode } from '../../../src/node/network/libp2p.ts'
import { ServerLinks } from '../../../src/node/network/server-links.ts'
import { protocolId } from '../../../src/protocols/charter/index.ts'
import { AnswerSchema, type Hello } from '../../../src/protocols/hello/hello_pb.ts'
import { asHost } from '../../../src/protocols/hello/messages.ts'
import { ControlStream } from '../../../src/protocols/wire/control.ts'

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

async function nodeOf (role: 'server' | 'client', listen: string[] = []): Promise<MidspanNode> {
  const node = await createMidspanNode({ privateKey: await generateKeyPair('Ed25519'), role, listen })
  onTestFinished(async () => { await node.stop() })
  return node
}

/** A server that welcomes whoever says hello, or refuses everybody, and keeps the hellos. */
async function serverOf ({ refuses = false } = {}) {
  const node = await nodeOf('server', ['/ip4/127.0.0.1/tcp/0'])
  const hellos: Hello[] = []
  await node.handle(protocolId('hello'), async (stream) => {
    const control = new ControlStream(stream, asHost)
    hellos.push((await control.read()).message)
    const answer = refuses
      ? { case: 'refusal', value: { code: 'E_CERTIFICATE_EXPIRED', field: 'certificate', message: 'it expired' } } as const
      : { case: 'welcome', value: { agent: 'test', role: 'server', charterLength: 0 } } as const
    await control.write(create(AnswerSchema, { answer }))
    await control.close()
  })
  await node.start()
  const server = { peerId: node.peerId.toString(), addresses: node.getMultiaddrs().map((address) => address.toString().split('/p2p/')[0]!) }
  return { node, hellos, server }
}

type Server = Awaited<ReturnType<typeof serverOf>>

async function linked (...servers: Server[]) {
  const node = await nodeOf('client')
  const gate = new Gate(node, silent)
  await node.start()
  let certificate: Uint8Array | undefined
  const links = new ServerLinks({
    node,
    gate,
    logger: silent,
    role: 'client',
    charterHash: new Uint8Array(32),
    certificate: () => certificate,
    servers: servers.map(({ server }) => server)
  })
  onTestFinished(async () => { await links.stop() })
  await links.start()
  const connected = (): boolean[] => links.servers().map(({ connected }) => connected)
  return { node, links, connected, certify: (bytes: Uint8Array) => { certificate = bytes } }
}

async function until (condition: () => boolean): Promise<void> {
  const limit = AbortSignal.timeout(10_000)
  while (!condition()) {
    limit.throwIfAborted()
    await sleep(10)
  }
}

describe('links to servers', () => {
  it('are made to those that are added, with the certificate of that moment', async () => {
    const [first, second] = [await serverOf(), await serverOf()]
    const { links, connected, certify } = await linked(first)
    expect(connected()).toEqual([true])
    certify(new Uint8Array([1, 2, 3]))
    links.setServers([first.server, second.server])
    await until(() => connected().length === 2 && connected().every(Boolean))
    expect([first, second].map(({ hellos }) => hellos.map(({ certificate }) => [...certificate]))).toEqual([[[]], [[1, 2, 3]]])
  })

  it('to a server that is left out last while it is connected, and are not made again', async () => {
    const [first, second] = [await serverOf(), await serverOf()]
    const { node, links, connected } = await linked(first, second)
    links.setServers([first.server])
    expect(connected()).toEqual([true])
    expect(node.getConnections(second.node.peerId)).toHaveLength(1)
    for (const connection of second.node.getConnections(node.peerId)) connection.abort(new Error('gone'))
    await until(() => node.getConnections(second.node.peerId).length === 0)
    await sleep(600)
    expect(second.hellos).toHaveLength(1)
    links.setServers([first.server, second.server])
    await until(() => second.hellos.length === 2)
  })

  it('give up a server that is left out before it is reached', async () => {
    const first = await serverOf()
    const { links, connected } = await linked(first)
    const nowhere = { peerId: (await nodeOf('server')).peerId.toString(), addresses: ['/ip4/127.0.0.1/tcp/1'] }
    links.setServers([first.server, nowhere])
    expect(connected()).toEqual([true, false])
    links.setServers([first.server])
    expect(connected()).toEqual([true])
    await links.stop()
  })

  it('say why the first of the servers is not connected, while none is', async () => {
    const [first, second] = [await serverOf({ refuses: true }), await serverOf()]
    const { links, connected } = await linked(first)
    expect(links.failure()).toMatchObject({ code: 'E_CERTIFICATE_EXPIRED' })
    links.setServers([first.server, second.server])
    await until(() => connected()[1] === true)
    expect(links.failure()).toBeUndefined()
  })

  it('are tried again at once when they are told to', async () => {
    const first = await serverOf({ refuses: true })
    const { links } = await linked(first)
    expect(first.hellos).toHaveLength(1)
    links.dialNow()
    await until(() => first.hellos.length === 2)
  })
})
