import { cp, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { SafetensorsFile } from '../../src/model/checkpoint/safetensors.ts'
import { readSnapshot } from '../../src/model/checkpoint/snapshot.ts'
import { PartialModelStore } from '../../src/model/checkpoint/store.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { changePartition } from '../../src/node/federation/partition.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { readConfig } from '../../src/node/home/settings.ts'
import { AdapterState } from '../../src/roles/client/training/adapter-state.ts'
import type { Tensor } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { readTrainGolden, relativeError } from '../helpers/golden.ts'
import { copyWithExactTokenizer, writeExactData } from './exact-data.ts'
import {
  adapterTensors,
  bareCharter,
  mixedPartitions,
  startFederation,
  TestClient,
  TestPeer,
  type RoundEvent,
  type TestFederation
} from './helpers.ts'
import { batchOf } from './reference.ts'
import { startWorkers } from './workers.ts'

const MODEL = 'stories260K-hf'
const ROUNDS = 20
const TOLERANCE = 1e-4

const golden = readTrainGolden()
const { lr, betas: [beta1, beta2], eps, weightDecay } = golden.adamw
const charter: Partial<CreateOptions> = {
  ...bareCharter,
  seed: golden.seed,
  loraR: golden.lora.r,
  loraAlpha: golden.lora.alpha,
  learningRate: lr,
  beta1,
  beta2,
  epsilon: eps,
  weightDecay,
  minClients: 3
}

/** A change that a client makes once it has done this many rounds. */
interface Change {
  readonly client: number
  readonly after: number
  readonly inputBlocks: number
  readonly outputBlocks: number
}

/** Four changes at random rounds, by random clients, to random partitions other than the ones that they have. */
function randomChanges (seed: number): Change[] {
  let state = seed
  const below = (end: number): number => {
    state = (state * 1103515245 + 12345) % 2 ** 31
    return Math.floor(state / 2 ** 31 * end)
  }
  const held = mixedPartitions.map(({ inputBlocks = 0, outputBlocks = 0 }) => ({ inputBlocks, outputBlocks }))
  return [2, 5, 8, 11].map((first) => {
    const client = below(3)
    let next = held[client]!
    while (next.inputBlocks === held[client]!.inputBlocks && next.outputBlocks === held[client]!.outputBlocks)
      next = { inputBlocks: below(3), outputBlocks: below(3) }
    held[client] = next
    return { client, after: first + below(3), ...next }
  })
}

describe.skipIf(!hasData(MODEL))('a client that changes its partition', { timeout: 180_000 }, () => {
  let root: string
  let model: string
  let data: string[]
  const federations: TestFederation[] = []

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-partition-'))
    model = await copyWithExactTokenizer(dataPath(MODEL), join(root, 'model'))
    data = await Promise.all(
      mixedPartitions.map(async (_, client) =>
        await writeExactData(join(root, `${client}.jsonl`), golden.ids.map((clients) => clients[client]!))
      )
    )
  })
  afterEach(async () => { for (const federation of federations.splice(0)) await federation.stop() })
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })

  async function start (clients = mixedPartitions, more: Partial<CreateOptions> = {}): Promise<TestFederation> {
    const federation = await startFederation({ model, charter: { ...charter, ...more }, clients, identities: 'exactness' })
    federations.push(federation)
    return federation
  }

  const parameters = (client: number, rounds: number): { readonly data: string, readonly rounds: number } & Record<string, unknown> => ({
    data: data[client]!, rounds, packing: 'padded', sequences: 2, maxTokens: 64
  })

  async function change (client: TestClient, options: object): Promise<ResultOf<'partition'>> {
    return await client.peer.ask('partition', options)
  }

  /** Trains, and changes the client's partition where a change is due. Returns its rounds. */
  async function train (client: TestClient, index: number, rounds: number, changes: readonly Change[]): Promise<RoundEvent[]> {
    const events: RoundEvent[] = []
    let changing: Promise<unknown> = Promise.resolve()
    const took: number[] = []
    for await (const event of client.peer.events('train', parameters(index, rounds))) {
      if ((event as RoundEvent).type !== 'round') continue
      events.push(event as RoundEvent)
      for (const { client: whose, after, inputBlocks, outputBlocks } of changes)
        if (whose === index && after === events.length)
          changing = changing.then(async () => {
            await change(client, { inputBlocks, outputBlocks })
            took.push(events.length)
          })
    }
    await changing
    for (const doneRounds of took) expect(doneRounds).toBeLessThan(rounds)
    return events
  }

  const exported = async (federation: TestFederation, client = 0): Promise<Map<string, Tensor>> =>
    adapterTensors(await federation.clients[client]!.export(federation.path(`adapter-${client}`)))

  /** The rounds of these clients on one machine. */
  async function centralised (events: RoundEvent[][], rounds: number): Promise<Map<string, Tensor>> {
    const device = await openDevice('cpu', { threads: 1 })
    const directory = await openModelDirectory(model)
    const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, {
      trainable: { ...golden.lora, dropout: 0, rslora: false, seed: golden.seed },
      optimizer: { beta1, beta2, epsilon: eps, weightDecay }
    })
    for (let round = 0; round < rounds; round++) {
      const batches = events.flatMap((own, client) => {
        const index = own.findIndex((event) => event.round === round)
        return index < 0 ? [] : [batchOf(golden.ids[index]![client]!)]
      })
      await trainer.step(batches, { learningRate: lr, maxGradientNorm: null })
    }
    const values = await trainer.values()
    trainer.free()
    await device.close()
    return values
  }

  it('four times while it trains over two servers ends as one machine does', async () => {
    const federation = await startWorkers({ model, charter, clients: mixedPartitions, identities: 'exactness' }, {
      founder: { first: 0, end: 2 }, workers: [{ first: 2, end: 5 }]
    })
    federations.push(federation)
    const changes = randomChanges(1)
    const events = await Promise.all(
      federation.clients.map(async (client, index) => await train(client, index, ROUNDS, changes))
    )
    // Nobody was left out: a round waits for a client that changes.
    expect(events.map((own) => own.map(({ round }) => round))).toEqual(Array(3).fill(Array.from({ length: ROUNDS }, (_, round) => round)))
    const [actual, expected] = [await exported(federation), await centralised(events, ROUNDS)]
    expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort())
    expect(worst(actual, expected)).toBeLessThan(TOLERANCE)
  })

  it('generates and exports the same with any partition, running or stopped', async () => {
    const federation = await start([{ inputBlocks: 1, outputBlocks: 1 }], { minClients: 1 })
    const [client] = federation.clients as [TestClient]
    const first = await client.train(parameters(0, 2))
    const before = await tensorsIn(client.home)
    const prompt = golden.ids[0]![0]![0]!.slice(0, 8)
    const text = async (): Promise<number[]> => (await client.generate({ ids: prompt, maxTokens: 8, temperature: 0 })).ids
    const [ids, adapter] = [await text(), await exported(federation)]

    // The change waits for the text, or the text for the change.
    const [during, grown] = await Promise.all([text(), change(client, { inputBlocks: 2 })])
    expect(during).toEqual(ids)
    expect(grown).toMatchObject({ before: { inputBlocks: 1, outputBlocks: 1 }, partition: { inputBlocks: 2, outputBlocks: 1 }, note: null })
    expect(grown.fetchedBytes).toBeGreaterThan(0)
    expect(await readConfig(homeAt(client.home).config)).toMatchObject({ inputBlocks: 2, outputBlocks: 1 })
    expect(client.peer.daemon.status()).toMatchObject({ partition: { inputBlocks: 2, outputBlocks: 1 } })
    expect(await text()).toEqual(ids)

    await client.peer.stop()
    expect(await changePartition(client.home, { inputBlocks: 1, outputBlocks: 2, discard: false }, SOON())).toMatchObject({ note: null })
    await client.peer.start()
    expect(client.peer.daemon.status()).toMatchObject({ partition: { inputBlocks: 1, outputBlocks: 2 } })
    expect(await text()).toEqual(ids)
    expect(worst(await exported(federation), adapter)).toBe(0)

    // What goes costs nothing, and leaves nothing behind.
    expect(await change(client, { outputBlocks: 1 })).toMatchObject({ fetchedBytes: 0 })
    expect(await tensorsIn(client.home)).toEqual(before)
    expect(await readdir(homeAt(client.home).model)).not.toContain('parts')
    const events = await client.train(parameters(0, 3))
    expect(events.map(({ round }) => round)).toEqual([2])
    const whole = await centralised([[...first, ...events]], 3)
    expect(worst(await exported(federation), whole)).toBeLessThan(TOLERANCE)
  })

  it('is left with the old partition or the new one, whole, wherever it is killed', async () => {
    const federation = await start([{ inputBlocks: 1, outputBlocks: 1 }], { minClients: 1 })
    const [client] = federation.clients as [TestClient]
    await client.train(parameters(0, 2))
    const copies: Array<readonly [instant: string, home: string]> = []
    const undo = [
      copying(PartialModelStore.prototype, 'finish'),
      copying(AdapterState.prototype, 'announce')
    ].map((around) => around(async (instant) => {
      const copy = federation.path(`copy-${copies.length}`)
      await cp(client.home, copy, { recursive: true, filter: (path) => !path.endsWith('.sock') && !path.endsWith('.lock') })
      copies.push([instant, copy])
    }))
    try {
      await change(client, { inputBlocks: 2, outputBlocks: 0 })
    } finally {
      for (const restore of undo) restore()
    }
    await client.peer.stop()
    expect(copies.map(([instant]) => instant)).toEqual([
      'before finish', 'after finish', 'before announce', 'after announce', 'before finish', 'after finish'
    ])
    for (const [index, [, home]] of copies.entries()) {
      const peer = await TestPeer.start(home)
      try {
        expect(peer.daemon.status().partition)
          .toEqual(index < 4 ? { inputBlocks: 1, outputBlocks: 1 } : { inputBlocks: 2, outputBlocks: 0 })
        // All are the same client, which has missed what the one before it did.
        await new TestClient(peer).train(parameters(0, 5))
        const [own, federations] = [await stateIn(home), await stateIn(federation.server.home)]
        expect(own.size).toBeGreaterThan(0)
        for (const [name, { data }] of own) expect(data).toEqual(federations.get(name)?.data)
      } finally {
        await peer.stop()
      }
    }
  })

  it('is refused what cannot be, with what to do, and stays as it is', async () => {
    const federation = await start([{ inputBlocks: 1, outputBlocks: 1 }], { minClients: 1 })
    const [client] = federation.clients as [TestClient]
    await expect(change(client, { inputBlocks: 3 })).rejects.toThrow(/inputBlocks.*it is 3.*allows 0 to 2/)
    await expect(change(client, { inputBlocks: 1 })).rejects.toThrow(/holds 1 input and 1 output blocks already/)
    await federation.server.stop()
    await expect(change(client, { inputBlocks: 2 })).rejects.toThrow(/no server sent the weights/)
    expect(client.peer.daemon.status()).toMatchObject({ partition: { inputBlocks: 1, outputBlocks: 1 } })
    // What is held already needs no server.
    expect(await change(client, { inputBlocks: 0 })).toMatchObject({ fetchedBytes: 0 })
    await federation.server.start()
  })

  it.each([
    ['personal', { mode: 'personal' }, /learnt in block 0 is lost/],
    ['averaged', { mode: 'average', every: 2 }, /learnt in block 0 since the last average is lost/]
  ] as const)('says what is not exact with %s ends, and goes on from the adapters of the middle', async (_, ends, lost) => {
    const federation = await start([{ inputBlocks: 1, outputBlocks: 1 }], { minClients: 1, ends })
    const [client] = federation.clients as [TestClient]
    await client.train(parameters(0, 3))
    const before = await exported(federation)
    await expect(change(client, { inputBlocks: 0 })).rejects.toThrow(lost)
    expect((await change(client, { inputBlocks: 2 })).note).toMatch(/from the middle's adapters/)
    expect(worst(await exported(federation), before)).toBe(0)
    expect((await client.train(parameters(0, 4))).map(({ round }) => round)).toEqual([3])
    const shrunk = await change(client, { inputBlocks: 0, discard: true })
    expect(shrunk).toMatchObject({ partition: { inputBlocks: 0, outputBlocks: 1 }, note: null })
    expect((await client.train(parameters(0, 5))).map(({ round }) => round)).toEqual([4])
  })
})

const SOON = (): AbortSignal => AbortSignal.timeout(60_000)

/** Does something before and after each call of a method. Returns how to begin, which returns how to stop. */
function copying (prototype: object, name: string): (around: (instant: string) => Promise<void>) => () => void {
  return (around) => {
    const methods = prototype as Record<string, (...args: unknown[]) => Promise<unknown>>
    const original = methods[name]!
    methods[name] = async function (this: unknown, ...args) {
      await around(`before ${name}`)
      const result = await original.apply(this, args)
      await around(`after ${name}`)
      return result
    }
    return () => { methods[name] = original }
  }
}

/** The adapters and moments that a peer has made durable. */
async function stateIn (home: string): Promise<ReadonlyMap<string, Tensor>> {
  return (await readSnapshot(join(homeAt(home).state, 'training.safetensors')))?.tensors ?? new Map<string, Tensor>()
}

async function tensorsIn (home: string): Promise<string[]> {
  return [...(await SafetensorsFile.open(join(homeAt(home).model, 'model.safetensors'))).tensors.keys()].sort()
}

/** The largest error over all tensors, of a tensor's largest value. */
function worst (actual: ReadonlyMap<string, Tensor>, expected: ReadonlyMap<string, Tensor>): number {
  return Math.max(...[...expected].map(([name, { data }]) => relativeError(actual.get(name)?.data as Float32Array, data as Float32Array)))
}
