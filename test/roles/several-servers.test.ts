import { cp, mkdtemp, open, readFile, readlink, rename, rm, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Connection, PeerId, Stream } from '@libp2p/interface'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { Batches } from '../../src/model/text/batches.ts'
import { loadDataset } from '../../src/model/text/dataset.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { homeAt } from '../../src/node/home/home.ts'
import type { MidspanNode } from '../../src/node/network/libp2p.ts'
import { MAX_STAGE_STREAMS, STAGE_PROTOCOL } from '../../src/protocols/stage/constants.ts'
import { CoordinatorMessageSchema, fromWorker, WorkerMessageSchema } from '../../src/protocols/stage/messages.ts'
import { acceptChannel, openChannel } from '../../src/protocols/wire/channel.ts'
import { shapesOf } from '../../src/roles/charter-settings.ts'
import { startClientRole } from '../../src/roles/client/index.ts'
import type { ClientContext, StartServerRole } from '../../src/roles/context.ts'
import { stageLimits } from '../../src/roles/message-limits.ts'
import { startServerRole } from '../../src/roles/server/index.ts'
import type { Span } from '../../src/span.ts'
import type { Tensor } from '../../src/tensor.ts'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { adapterTensors, mixedPartitions, type TestPeer } from './helpers.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const ROUNDS = 4
const TOLERANCE = 1e-4
const LEARNING_RATE = 1e-2
const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0 }
const adapters = { r: 2, alpha: 4, dropout: 0, rslora: false, targets: ['q_proj', 'down_proj'], seed: '5eed' }
const charter: Partial<CreateOptions> = {
  learningRate: LEARNING_RATE,
  ...optimizer,
  minClients: mixedPartitions.length,
  loraR: 2,
  loraAlpha: 4,
  loraTargets: ['q', 'down'],
  seed: '5eed'
}
/** Daemons on a busy machine take their time. */
const POLL = { timeout: 20_000 }

const work = { packing: 'padded', sequences: 3, maxTokens: 32 } as const

type Spans = ReadonlyArray<readonly [first: number, end: number]>

describe('training over several servers', { timeout: 120_000 }, () => {
  let root: string
  let model: string
  let expected: Map<string, Tensor>
  let federation: WorkersFederation | undefined

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-several-'))
    model = join(root, 'model')
    await writeTinyModel(model)
    for (const client of mixedPartitions.keys()) await writeTinyData(data(client), client)
    const device = await openDevice('cpu', { threads: 1 })
    expected = await centralised(device)
    await device.close()
  })
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })
  afterEach(async () => {
    await federation?.stop()
    federation = undefined
  })

  const data = (client: number): string => join(root, `${client}.jsonl`)

  /** The same rounds on one machine. */
  async function centralised (device: Device): Promise<Map<string, Tensor>> {
    const directory = await openModelDirectory(model)
    const tokenizer = await loadTokenizer(model)
    const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, { trainable: adapters, optimizer })
    const batches = await Promise.all(mixedPartitions.map(async (_, client) => {
      const { examples } = await loadDataset(data(client), tokenizer, { lossOn: 'completion', maxLength: work.maxTokens + 1 })
      return new Batches(examples, { seed: '0', sequences: work.sequences, mode: 'padded', windowLength: work.maxTokens })
    }))
    const cursors = batches.map(() => ({ epoch: 0, index: 0 }))
    for (let round = 0; round < ROUNDS; round++) {
      const taken = batches.map((own, client) => own.at(cursors[client]!))
      for (const [client, { next }] of taken.entries()) cursors[client] = next
      await trainer.step(taken.map(({ batch }) => batch), { learningRate: LEARNING_RATE })
    }
    const values = await trainer.values()
    trainer.free()
    return values
  }

  async function start (founder: readonly [number, number], workers: Spans): Promise<WorkersFederation> {
    const spanOf = ([first, end]: readonly [number, number]): Span => ({ first, end })
    return federation = await startWorkers(
      { model, charter, clients: mixedPartitions, identities: 'several' },
      { founder: spanOf(founder), workers: workers.map(spanOf) }
    )
  }

  async function trainAll ({ clients }: WorkersFederation, rounds = ROUNDS, onEvent: (event: object) => void = () => {}): Promise<void> {
    await Promise.all(clients.map(async ({ peer }, index) => {
      for await (const event of peer.events('train', { data: data(index), rounds, ...work })) onEvent(event)
    }))
  }

  async function expectEqual (started: WorkersFederation): Promise<void> {
    const actual = adapterTensors(await started.clients[0]!.export(started.path('adapter')))
    expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort())
    for (const [name, { data: values }] of expected)
      expect(relativeError(actual.get(name)!.data as Float32Array, values as Float32Array), name).toBeLessThan(TOLERANCE)
  }

  const logOf = async ({ server }: WorkersFederation): Promise<string> => await readFile(homeAt(server.home).log, 'utf8')

  it('over three in series comes to the parameters of one machine, and nobody but the coordinator has a worker compute', async () => {
    const started = await start([1, 2], [[2, 3], [3, 4]])
    await trainAll(started)
    await expectEqual(started)
    const curious = await curiousOf(started)
    await expect(askWorker(curious)).rejects.toMatchObject({ code: 'E_NOT_COORDINATOR' })
    const streams = await Promise.all(
      Array.from({ length: MAX_STAGE_STREAMS + 2 }, async () => await curious.stream().catch(() => undefined))
    )
    await expect.poll(() => streams.filter((stream) => stream?.status === 'open').length, POLL).toBeLessThanOrEqual(MAX_STAGE_STREAMS)
    for (const stream of streams) stream?.abort(new Error('enough'))
  })

  it('over two in series of two replicas each comes to the parameters of one machine', async () => {
    const started = await start([1, 3], [[1, 3], [3, 4], [3, 4]])
    await trainAll(started)
    await expectEqual(started)
  })

  it('does so while the only holder of blocks is cut off in the middle of passes', async () => {
    const started = await start([1, 2], [[2, 4]])
    const [worker] = started.workers
    const cuts = [0, 1, 2].map((cut) => setTimeout(() => {
      for (const connection of worker!.daemon.node.getConnections()) connection.abort(new Error('the network is down'))
    }, 150 + 700 * cut))
    try {
      await trainAll(started)
    } finally {
      for (const cut of cuts) clearTimeout(cut)
    }
    await expectEqual(started)
    expect(await logOf(started)).toContain('a worker is gone')
  })

  it('does so while replicas and the coordinator stop and start again in turn', async () => {
    const started = await start([1, 2], [[2, 4], [2, 4]])
    const peers = [...started.workers, started.server]
    const restarts = (async () => {
      for (const peer of [...peers, ...peers]) {
        await peer.stop()
        await peer.start()
      }
    })()
    try {
      await trainAll(started)
    } finally {
      await restarts
    }
    await expectEqual(started)
  })

  it('goes on over a replica while the network between the coordinator and one worker alone is down', async () => {
    const started = await start([1, 2], [[2, 4], [2, 4]])
    const { server, clients: [client], workers: [cut] } = started
    const isConnected = async (peer: TestPeer): Promise<boolean> =>
      (await peer.ask<ResultOf<'servers'>>('servers')).servers.find(({ peerId }) => peerId === cut!.peerId)?.connected === true
    const heal = partition(cut!.daemon.node, server.daemon.node.peerId)
    try {
      await trainAll(started)
      await expectEqual(started)
      expect([await isConnected(server), await isConnected(client!.peer)]).toEqual([false, true])
    } finally {
      heal()
    }
    const line = (await logOf(started)).split('\n').find((text) => text.includes('a worker is gone'))
    expect(line).toContain(cut!.peerId)
    await expect.poll(async () => await isConnected(server), POLL).toBe(true)
  })

  it('goes on with a worker whose disk is full, which says so, and that is restored from an old copy of its home', async () => {
    const started = await start([1, 2], [[2, 4]])
    const [worker] = started.workers
    const { home } = worker!
    const copy = started.path('worker-copy')
    await worker!.stop()
    await cp(home, copy, { recursive: true })
    await worker!.start()
    const free = await fillDisk(home)
    try {
      // Another server comes: the worker has something to write.
      await started.joinWorker('worker-other', { first: 1, end: 2 })
      await trainAll(started, ROUNDS - 1)
      const log = async (): Promise<string> => await readFile(homeAt(home).log, 'utf8')
      await expect.poll(log, POLL).toContain('what is known of the servers cannot be kept')
      expect(await log()).toContain('ENOSPC')
    } finally {
      free()
    }
    await worker!.stop()
    await rm(home, { recursive: true })
    await rename(copy, home)
    await worker!.start()
    await trainAll(started)
    await expectEqual(started)
  })

  it('waits for blocks that nobody serves, and leaves a worker out whose answers are not finite, saying so', async () => {
    const started = await start([1, 3], [])
    const told: object[] = []
    const training = trainAll(started, ROUNDS, (event) => { told.push(event) })
    await expect.poll(async () => await logOf(started), POLL).toContain('training waits for blocks 3-4: nobody serves them')
    expect(started.server.daemon.status().training?.missing).toEqual([{ first: 3, end: 4 }])
    await expect.poll(() => told, POLL).toContainEqual({ type: 'waiting', reason: 'the round waits for blocks 3-4: nobody serves them' })
    const liar = await started.joinWorker('worker-liar', { first: 3, end: 4 }, { role: answering(NaN) })
    await expect.poll(async () => await logOf(started), POLL).toContain('a worker computes wrong, and is left out')
    const line = (await logOf(started)).split('\n').find((text) => text.includes('a worker computes wrong'))
    expect(line).toContain(liar.peerId)
    await started.joinWorker('worker-late', { first: 3, end: 4 }, { fetches: true })
    await training
    await expectEqual(started)
  })

  /** A client that is connected to a worker, and opens stage streams to it. */
  interface Curious {
    readonly context: ClientContext
    readonly worker: PeerId
    readonly stream: () => Promise<Stream>
  }

  async function curiousOf (started: WorkersFederation): Promise<Curious> {
    let context: ClientContext | undefined
    await started.join('client-curious', {}, {
      server: startServerRole,
      client: async (given) => await startClientRole(context = given)
    })
    const worker = started.workers[0]!.daemon.node.peerId
    await expect.poll(() => context!.servers().some(({ peerId, connected }) => connected && peerId.equals(worker)), POLL).toBe(true)
    const stream = async (): Promise<Stream> => await context!.dial(worker, STAGE_PROTOCOL, AbortSignal.timeout(5_000))
    return { context: context!, worker, stream }
  }

  /** Asks a worker for what only the coordinator may ask. Rejects with what the worker says. */
  async function askWorker ({ context: { identity, charter, charterHash }, worker, stream }: Curious): Promise<void> {
    const channel = await openChannel(await stream(), {
      protocol: STAGE_PROTOCOL,
      outgoing: CoordinatorMessageSchema,
      incoming: WorkerMessageSchema,
      limits: stageLimits(charter, shapesOf(charter, [{ first: 0, end: charter.model.blocks }])),
      identity,
      remotePeer: worker,
      charter: charterHash
    })
    await channel.receive(AbortSignal.timeout(5_000))
  }
})

/** Cuts every connection of a node to a peer, those that come too. Returns what ends that. */
function partition (node: MidspanNode, peer: PeerId): () => void {
  const down = new Error('the network is down')
  const cut = ({ detail }: CustomEvent<Connection>): void => { if (detail.remotePeer.equals(peer)) detail.abort(down) }
  node.addEventListener('connection:open', cut)
  for (const connection of node.getConnections(peer)) connection.abort(down)
  return () => { node.removeEventListener('connection:open', cut) }
}

/** Has writes to files below a directory fail for want of space, whoever has them open in this process. Returns what ends that. */
async function fillDisk (directory: string): Promise<() => void> {
  const probe = await open('/dev/null')
  const prototype = Object.getPrototypeOf(probe) as Record<'write' | 'writev' | 'writeFile', (...given: unknown[]) => Promise<unknown>>
  await probe.close()
  const spies = (['write', 'writev', 'writeFile'] as const).map((method) => {
    const real = prototype[method]
    return vi.spyOn(prototype, method).mockImplementation(async function (this: FileHandle, ...given) {
      if ((await readlink(`/proc/self/fd/${this.fd}`)).startsWith(directory))
        throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
      return await real.apply(this, given)
    })
  })
  return () => { for (const spy of spies) spy.mockRestore() }
}

/** The role of a worker that takes adapters, and answers every pass with hidden states of this value. */
function answering (value: number): StartServerRole {
  return async (context) => await startServerRole({
    ...context,
    handle: async (protocol, handler, options) => {
      const { identity, charter, charterHash } = context
      await context.handle(protocol, protocol !== STAGE_PROTOCOL ? handler : async (stream, remotePeer) => {
        const channel = await acceptChannel(stream, {
          protocol,
          outgoing: WorkerMessageSchema,
          incoming: CoordinatorMessageSchema,
          limits: stageLimits(charter, shapesOf(charter, [{ first: 0, end: charter.model.blocks }])),
          identity,
          remotePeer,
          charter: charterHash
        })
        for (;;) {
          const { message: { request, kind }, tensors } = await channel.receive()
          if (kind.case === 'loadAdapters')
            await channel.send(fromWorker(request, { case: 'loaded', value: { round: kind.value.round } }))
          else
            await channel.send(
              fromWorker(request, { case: 'hidden', value: {} }),
              tensors.map(({ dtype, shape, data }) => ({ dtype, shape, data: new Float32Array(data.length).fill(value) }))
            )
        }
      }, options)
    }
  })
}
