import { readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { ResultOf } from '../../../src/api/operations.ts'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { writePeftAdapter } from '../../../src/model/checkpoint/peft.ts'
import { SafetensorsFile } from '../../../src/model/checkpoint/safetensors.ts'
import type { DaemonStatus } from '../../../src/node/daemon/daemon-status.ts'
import { startDaemon, type Daemon } from '../../../src/node/daemon/daemon.ts'
import { serverMemory } from '../../../src/node/federation/block-memory.ts'
import { joinAsServer } from '../../../src/node/federation/join-server.ts'
import { joinFederation } from '../../../src/node/federation/join.ts'
import { readMembership } from '../../../src/node/federation/membership.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { loadOrCreateIdentity } from '../../../src/node/home/identity.ts'
import { readConfig } from '../../../src/node/home/settings.ts'
import { createMidspanNode, type MidspanNode } from '../../../src/node/network/libp2p.ts'
import { protocolId } from '../../../src/protocols/charter/index.ts'
import { createAnnouncement, DIRECTORY_PROTOCOL, DirectoryStream } from '../../../src/protocols/directory/index.ts'
import { sayHello } from '../../../src/protocols/hello/index.ts'
import type { ClientContext, ServerContext } from '../../../src/roles/context.ts'
import type { Tensor } from '../../../src/tensor.ts'
import { writeTinyModel } from '../../helpers/tiny-model.ts'
import { ask, founded, idleRoles, inviteFrom, loopback, temporaryDirectory } from '../fixture.ts'

const soon = (): AbortSignal => AbortSignal.timeout(15_000)

let model: string

beforeAll(async () => {
  model = join(tmpdir(), `midspan-servers-${process.pid}`)
  await writeTinyModel(model)
})

afterAll(async () => { await rm(model, { recursive: true, force: true }) })

/** A daemon on loopback whose role does nothing, with the context that its role got. */
async function started<Context extends ServerContext | ClientContext> (
  home: string,
  listen: readonly string[] = loopback
): Promise<{ home: string, daemon: Daemon, context: Context, stop: () => Promise<void> }> {
  let context: ServerContext | ClientContext | undefined
  const roles = {
    server: async (given: ServerContext) => await idleRoles.server(context = given),
    client: async (given: ClientContext) => await idleRoles.client(context = given)
  }
  const daemon = await startDaemon(home, { listen: [...listen] }, { roles })
  onTestFinished(async () => { await daemon.stop() })
  return { home, daemon, context: context as Context, stop: async () => { await daemon.stop() } }
}

const founder = async (changes: object = {}) => {
  const { home } = await founded({ model, clip: 'none', noise: 0, wire: 'fp32', ...changes })
  return await started<ServerContext>(home)
}

/** A peer of an identity that runs no daemon. */
async function strangerOf (privateKey: Ed25519PrivateKey): Promise<MidspanNode> {
  const node = await createMidspanNode({ privateKey, role: 'client', listen: [] })
  await node.start()
  onTestFinished(async () => { await node.stop() })
  return node
}

/** Writes a PEFT adapter of rank 2 on the queries of the tiny model. */
async function writeQueryAdapter (path: string): Promise<void> {
  const names = [0, 1, 2, 3, 4].map((layer) => `base_model.model.model.layers.${layer}.self_attn.q_proj`)
  const tensors = new Map<string, Tensor>(names.flatMap((name): Array<[string, Tensor]> => [
    [`${name}.lora_A.weight`, { dtype: 'float32', shape: [2, 16], data: new Float32Array(32).fill(0.5) }],
    [`${name}.lora_B.weight`, { dtype: 'float32', shape: [16, 2], data: new Float32Array(32).fill(0.25) }]
  ]))
  await writePeftAdapter(path, { baseModel: null, r: 2, alpha: 4, dropout: 0, targets: ['q_proj'], rslora: false, tensors, dtype: 'F32' })
}

/** A home that joined as a server. */
async function joinedWorker (founderHome: string, blocks = { first: 2, end: 4 }): Promise<string> {
  const home = await temporaryDirectory()
  await joinAsServer(home, { invite: await inviteFrom(founderHome, { role: 'server' }), blocks }, soon())
  return home
}

async function joinedClient (founderHome: string): Promise<string> {
  const home = await temporaryDirectory()
  await joinFederation(home, { invite: await inviteFrom(founderHome) }, soon())
  return home
}

const serversAt = async (home: string): Promise<ResultOf<'servers'>> => await ask<ResultOf<'servers'>>(home, 'servers')

async function until (condition: () => boolean | Promise<boolean>): Promise<void> {
  const limit = soon()
  while (!await condition()) {
    limit.throwIfAborted()
    await sleep(20)
  }
}

describe('a server that joins', () => {
  it('holds the blocks that it serves alone, and says so in its settings', async () => {
    const { home: founderHome } = await founder()
    const home = await temporaryDirectory()
    const joined = await joinAsServer(
      home,
      { invite: await inviteFrom(founderHome, { role: 'server' }), blocks: { first: 0, end: 3 } },
      soon()
    )
    expect(joined).toMatchObject({ span: { first: 1, end: 3 }, blocks: 5, updated: false, model: join(home, 'model') })
    const names = (await openModelDirectory(join(home, 'model'))).tensorNames()
    expect(new Set(names.map((name) => /layers\.(\d)\./.exec(name)?.[1]))).toEqual(new Set(['1', '2']))
    expect(await readConfig(homeAt(home).config)).toEqual({ role: 'server', blocks: '0-3' })
  })

  it('joins again with other blocks, and fetches those that it lacks', async () => {
    const { home: founderHome } = await founder()
    const home = await joinedWorker(founderHome, { first: 1, end: 3 })
    const again = await joinAsServer(
      home,
      { invite: await inviteFrom(founderHome, { role: 'server' }), blocks: { first: 2, end: 4 } },
      soon()
    )
    const model = await openModelDirectory(join(home, 'model'))
    expect(model.tensorNames().filter((name) => name.includes('layers.1.'))).toEqual([])
    expect(again).toMatchObject({ updated: true, span: { first: 2, end: 4 }, fetchedBytes: again.tensorBytes / 2 })
  })

  it('fetches from workers too, and without them where they do not answer', async () => {
    const { home: founderHome } = await founder()
    const worker = await started<ServerContext>(await joinedWorker(founderHome, { first: 2, end: 4 }))
    const asked: string[] = []
    const { node } = worker.daemon
    node.addEventListener('peer:connect', ({ detail }) => { asked.push(detail.toString()) })
    await until(async () => (await serversAt(founderHome)).servers.length === 2)
    const home = await temporaryDirectory()
    const invite = await inviteFrom(founderHome, { role: 'server', uses: 2 })
    const joined = await joinAsServer(home, { invite, blocks: { first: 1, end: 4 } }, soon())
    expect(joined.fetchedBytes).toBeGreaterThan(joined.tensorBytes)
    expect(asked).toEqual([joined.peerId])
    await node.unhandle(protocolId('weights'))
    const other = await temporaryDirectory()
    expect(await joinAsServer(other, { invite, blocks: { first: 1, end: 4 } }, soon())).toMatchObject({ fetchedBytes: joined.fetchedBytes })
  })

  it('uses a model directory whose bytes are those of the charter, and fetches nothing', async () => {
    const { home: founderHome } = await founder()
    const home = await temporaryDirectory()
    const invite = await inviteFrom(founderHome, { role: 'server' })
    expect(await joinAsServer(home, { invite, blocks: { first: 1, end: 4 }, model }, soon())).toMatchObject({ fetchedBytes: 0, model })
    await expect(stat(join(home, 'model', 'model.safetensors'))).rejects.toMatchObject({ code: 'ENOENT' })
    await started(home)
  })

  it('fetches the adapters that training starts from on its blocks, also beside a model directory', async () => {
    const adapter = join(await temporaryDirectory(), 'adapter')
    await writeQueryAdapter(adapter)
    const { home: founderHome } = await founder({ adapter })
    const invite = await inviteFrom(founderHome, { role: 'server', uses: 2 })
    const blocks = { first: 2, end: 4 }
    const adapters = [2, 3].flatMap((layer) =>
      ['A', 'B'].map((side) => `base_model.model.model.layers.${layer}.self_attn.q_proj.lora_${side}.weight`))
    const [fetched, beside] = [await temporaryDirectory(), await temporaryDirectory()]
    await joinAsServer(fetched, { invite, blocks }, soon())
    await joinAsServer(beside, { invite, blocks, model }, soon())
    for (const home of [fetched, beside]) {
      const { context } = await started<ServerContext>(home)
      expect([...(await SafetensorsFile.open(context.paths.adapter)).tensors.keys()]).toEqual(expect.arrayContaining(adapters))
    }
    const file = await SafetensorsFile.open(join(beside, 'model', 'model.safetensors'))
    expect([...file.tensors.keys()].toSorted()).toEqual(adapters.toSorted())
  })

  it('takes the blocks that the federation lacks most, within its memory', async () => {
    const { home: founderHome } = await founder({ blocks: { first: 1, end: 3 }, cacheBytes: 1024 })
    const invite = await inviteFrom(founderHome, { role: 'server' })
    const home = await temporaryDirectory()
    const join = async (memoryBytes: number) => await joinAsServer(home, { invite, blocks: 'auto', memoryBytes }, soon())
    await expect(join(10_000)).rejects.toMatchObject({
      code: 'E_USAGE', message: expect.stringMatching(/^the memory is too small for one block, which takes \d+ MiB/) as string
    })
    expect(await join(2 ** 30)).toMatchObject({ span: { first: 1, end: 4 } })
    const { blockBytes, fixedBytes } = serverMemory((await readMembership(homeAt(home))).signed.charter, { format: 'fp32', residuals: 'saved' })
    const memory = fixedBytes + (blockBytes[2] as number)
    expect(await join(memory)).toMatchObject({ updated: true, span: { first: 3, end: 4 } })
    expect(await readConfig(homeAt(home).config)).toMatchObject({ blocks: '3-4', memory })
    // It goes on choosing by itself until it is told which blocks it has.
    await joinAsServer(home, { invite }, soon())
    expect(await readConfig(homeAt(home).config)).toMatchObject({ blocks: '3-4', memory })
    await joinAsServer(home, { invite, blocks: { first: 2, end: 4 } }, soon())
    expect(await readConfig(homeAt(home).config)).toEqual({ role: 'server', blocks: '2-4' })
  })

  it('is told what is wrong, in one line, with what to do', async () => {
    const { home: founderHome } = await founder()
    const other = await temporaryDirectory()
    await writeTinyModel(other, { rms_norm_eps: 1e-4 })
    const invite = await inviteFrom(founderHome, { role: 'server', uses: 10 })
    const join = async (options: object): Promise<unknown> =>
      await joinAsServer(await temporaryDirectory(), { invite, ...options }, soon()).catch((error: unknown) => error)
    const refusal = (message: RegExp): object => expect.objectContaining({
      code: 'E_USAGE', message: expect.stringMatching(message) as string, next: expect.any(String) as string
    }) as object
    expect(await join({ blocks: { first: 2, end: 6 } })).toEqual(refusal(/^the blocks 2-6 are outside the model, which has 5$/))
    expect(await join({ blocks: { first: 4, end: 5 } })).toEqual(refusal(/computed by every client itself/))
    expect(await join({})).toEqual(refusal(/which blocks this server serves is not said/))
    expect(await join({ blocks: { first: 1, end: 3 }, model: other })).toEqual(refusal(/is not the model of the charter: config\.json/))
    expect(await join({ blocks: { first: 1, end: 3 }, invite: await inviteFrom(founderHome) })).toEqual(refusal(/is for a client/))
    await expect(joinFederation(await temporaryDirectory(), { invite }, soon())).rejects.toEqual(refusal(/is for a server/))
  })
})

describe('servers', () => {
  it('are seen by each other and by clients, with their blocks', async () => {
    const lead = await founder({ blocks: { first: 0, end: 2 } })
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    const client = await started<ClientContext>(await joinedClient(lead.home), [])
    expect(lead.context.span).toEqual({ first: 1, end: 2 })
    expect(worker.context).toMatchObject({ span: { first: 2, end: 4 } })
    expect(worker.context.coordinator.toString()).toBe(lead.daemon.node.peerId.toString())
    const [leadId, workerId] = [lead, worker].map(({ daemon }) => daemon.node.peerId.toString())
    await until(() => client.context.servers().filter(({ connected }) => connected).length === 2)
    for (const { home } of [lead, worker, client]) {
      await until(async () => (await serversAt(home)).servers.filter(({ blocks }) => blocks !== null).length === 2)
      const { servers, coverage, missing } = await serversAt(home)
      expect(new Map(servers.map(({ peerId, blocks }) => [peerId, blocks]))).toEqual(new Map([
        [leadId, { first: 1, end: 2 }],
        [workerId, { first: 2, end: 4 }]
      ]))
      expect(servers.map(({ connected }) => connected)).toEqual([true, true])
      expect([coverage, missing]).toEqual([[{ blocks: { first: 1, end: 4 }, servers: 1 }], []])
    }
    await until(() => client.context.servers().every(({ roundTripMs }) => roundTripMs !== undefined))
    expect(client.context.servers().map(({ isCoordinator }) => isCoordinator)).toEqual([true, false])
    expect(await ask<DaemonStatus>(worker.home, 'status')).toMatchObject({ role: 'server', connected: true, coordinator: leadId, members: null })
  })

  it('say which blocks nobody serves', async () => {
    const lead = await founder({ blocks: { first: 2, end: 3 } })
    expect((await serversAt(lead.home)).missing).toEqual([{ first: 1, end: 2 }, { first: 3, end: 4 }])
  })

  it('are dialled by the coordinator over the connection that they made, and by clients', async () => {
    const lead = await founder()
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    const client = await started<ClientContext>(await joinedClient(lead.home), [])
    const asked: string[] = []
    await worker.context.handle('/test/1.0.0', async (stream, peer) => {
      asked.push(peer.toString())
      await stream.close()
    })
    await until(() => client.context.servers().filter(({ connected }) => connected).length === 2)
    for (const { context } of [lead, client]) await context.dial(worker.daemon.node.peerId, '/test/1.0.0', soon())
    await until(() => asked.length === 2)
    expect(asked).toEqual([lead, client].map(({ daemon }) => daemon.node.peerId.toString()))
  })

  it('are gone at once when they stop', async () => {
    const lead = await founder({ blocks: { first: 1, end: 3 } })
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    const client = await started<ClientContext>(await joinedClient(lead.home), [])
    await until(() => client.context.servers().length === 2)
    let changes = 0
    client.context.onServersChanged(() => { changes++ })
    await worker.stop()
    await until(() => client.context.servers().length === 1)
    expect(changes).toBeGreaterThan(0)
    expect((await serversAt(lead.home)).missing).toEqual([{ first: 3, end: 4 }])
  })

  it('serve nothing while they are not connected, though they are known', async () => {
    const lead = await founder({ blocks: { first: 1, end: 3 } })
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    await until(async () => (await serversAt(lead.home)).missing.length === 0)
    await worker.daemon.node.stop() // as when its process is killed
    await until(async () => (await serversAt(lead.home)).missing.length === 1)
    const { servers, missing } = await serversAt(lead.home)
    expect(servers).toMatchObject([
      { blocks: { first: 1, end: 3 }, connected: true },
      { blocks: { first: 2, end: 4 }, connected: false }
    ])
    expect(missing).toEqual([{ first: 3, end: 4 }])
  })

  it('are gone when the founder removes them, and when they leave', async () => {
    const lead = await founder()
    const worker = async () => await started<ServerContext>(await joinedWorker(lead.home))
    const workers = [await worker(), await worker()] as const
    const client = await started<ClientContext>(await joinedClient(lead.home), [])
    await until(() => client.context.servers().length === 3)
    await ask(lead.home, 'remove', { peer: workers[0].daemon.node.peerId.toString() })
    await until(() => client.context.servers().length === 2)
    expect(await ask(workers[1].home, 'leave')).toMatchObject({ told: [lead.daemon.node.peerId.toString()] })
    await workers[1].daemon.stopped
    await until(() => client.context.servers().length === 1)
    expect((await ask<DaemonStatus>(lead.home, 'status')).members).toMatchObject([{ role: 'client' }])
    expect(await readConfig(homeAt(workers[1].home).config)).toEqual({})
  })

  it('announce themselves again to a coordinator that restarts', async () => {
    const lead = await founder()
    const listen = lead.daemon.status().addresses.map((address) => address.split('/p2p/')[0]!)
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    const client = await started<ClientContext>(await joinedClient(lead.home), [])
    const spans = () => client.context.servers().map(({ connected, span }) => connected ? span : undefined)
    await until(() => spans().filter((span) => span !== undefined).length === 2)
    await lead.stop()
    await until(() => spans().filter((span) => span !== undefined).length === 1)
    const again = await started<ServerContext>(lead.home, listen)
    await until(() => again.context.servers().some(({ connected, span }) => connected && span?.first === 2))
    await until(() => spans().filter((span) => span !== undefined).length === 2)
    expect(worker.daemon.status().connected).toBe(true)
  })

  it('work on with clients while the coordinator is away, also after they restart', async () => {
    const lead = await founder()
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    const home = await joinedClient(lead.home)
    const client = await started<ClientContext>(home, [])
    const workerId = worker.daemon.node.peerId
    const isLinked = ({ context }: { context: ClientContext }): boolean =>
      context.servers().some(({ peerId, connected }) => connected && peerId.equals(workerId))
    await until(() => isLinked(client))
    await until(async () => await readFile(homeAt(home).certificate).then(() => true, () => false))
    await lead.stop()
    await until(() => client.context.servers().filter(({ connected }) => connected).length === 1)
    expect(isLinked(client)).toBe(true)
    await client.stop()
    const again = await started<ClientContext>(home, [])
    await until(() => isLinked(again))
    expect(again.context.servers().find(({ peerId }) => peerId.equals(workerId))?.span).toEqual({ first: 2, end: 4 })
  })

  it('let a client in by its certificate until the founder removes it', async () => {
    const lead = await founder()
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    const client = await started<ClientContext>(await joinedClient(lead.home), [])
    await until(() => client.context.servers().filter(({ connected }) => connected).length === 2)
    await ask(lead.home, 'remove', { peer: client.daemon.node.peerId.toString() })
    await until(() => client.context.servers().every(({ connected }) => !connected))
    await until(() => client.daemon.status().disconnectedReason !== null)
    await until(() => worker.daemon.node.getConnections(client.daemon.node.peerId).length === 0)
    await client.stop()
    const { certificate } = JSON.parse(await readFile(homeAt(client.home).certificate, 'utf8')) as { certificate: string }
    const { key, signed } = await readMembership(homeAt(client.home))
    const node = await strangerOf(key)
    const hello = await node.dialProtocol(multiaddr(worker.daemon.status().addresses[0]), protocolId('hello'), { signal: soon() })
    await expect(sayHello(hello, {
      agent: 'test', role: 'client', federation: signed.hash, certificate: new Uint8Array(Buffer.from(certificate, 'base64'))
    }, soon())).rejects.toMatchObject({ code: 'E_CERTIFICATE_REVOKED' })
  })

  it('let nobody in without a certificate', async () => {
    const lead = await founder({ admission: 'open' })
    const worker = await started<ServerContext>(await joinedWorker(lead.home))
    const node = await strangerOf(await loadOrCreateIdentity(join(await temporaryDirectory(), 'identity.key')))
    const hello = await node.dialProtocol(multiaddr(worker.daemon.status().addresses[0]), protocolId('hello'), { signal: soon() })
    await expect(sayHello(hello, { agent: 'test', role: 'client' }, soon())).rejects.toMatchObject({ code: 'E_CERTIFICATE_MISSING' })
  })

  it('are not announced by clients, nor in the name of others', async () => {
    const lead = await founder()
    const client = await started<ClientContext>(await joinedClient(lead.home), [])
    const { key, signed } = await readMembership(homeAt(client.home))
    const scope = { federation: signed.id, middle: { first: 1, end: 4 } }
    const stream = new DirectoryStream(await client.context.dial(lead.daemon.node.peerId, DIRECTORY_PROTOCOL, soon()), scope)
    await stream.announce(await createAnnouncement({
      federation: signed.id, span: scope.middle, addresses: [], agent: '', protocols: {}, load: undefined, sequence: Date.now()
    }, key))
    await expect(stream.read(soon())).rejects.toMatchObject({ code: 'E_ANNOUNCEMENT_PEER' })
    expect((await serversAt(lead.home)).servers).toHaveLength(1)
  })
})
