import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory, type ModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf, type Model } from '../../src/model/families/index.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/open.ts'
import { LocalTrainer } from '../../src/model/training/local.ts'
import type { FoundOptions } from '../../src/node/found.ts'
import { clientDropoutSeed, dropoutSeed } from '../../src/roles/dropout-seed.ts'
import type { Tensor } from '../../src/tensor.ts'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { copyWithExactTokenizer, writeExactData } from './exact-data.ts'
import { adapterTensors, mixedPartitions, startFederation, type RoundEvent, type TestFederation } from './helpers.ts'
import { ApartTrainer, batchOf, type Share } from './reference.ts'

const BOS = 1
const LAYERS = 5
const PASSES = 2
const ROUNDS = 3
const SEQUENCES = 2
/** Of a tensor's largest value. */
const TOLERANCE = 1e-4
const LEARNING_RATE = 1e-2
/** An epsilon above rounding, so that rounding does not decide the direction of a step. */
const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0.01 }
const adapters = { r: 2, alpha: 4, dropout: 0, rslora: false, targets: ['q_proj', 'down_proj'], seed: '5eed' }
const charter: Partial<FoundOptions> = {
  seed: adapters.seed, loraR: adapters.r, loraAlpha: adapters.alpha, loraTargets: ['q', 'down'], learningRate: LEARNING_RATE, ...optimizer, accumulate: PASSES, minClients: mixedPartitions.length
}

/** What a client brings to its rounds, pass after pass: sequences that differ in length, so that clients and passes differ in tokens. */
function batchIds (client: number, index: number): number[][] {
  return Array.from({ length: SEQUENCES }, (_, i) => [BOS, ...Array.from({ length: 3 + (5 * client + 4 * index + 7 * i) % 11 }, (_, j) => 2 + (7 * j + 11 * index + 5 * client + 3 * i) % 29)])
}

/** A client's part in a round. */
interface Work extends Share {
  /** `ids` by pass. */
  readonly passes: ReadonlyArray<readonly number[][]>
}

describe('rounds of several passes', { timeout: 120_000 }, () => {
  let root: string
  let path: string
  let device: Device
  let directory: ModelDirectory
  let model: Model

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-passes-'))
    await writeTinyModel(join(root, 'tiny'))
    path = await copyWithExactTokenizer(join(root, 'tiny'), join(root, 'model'))
    for (const client of mixedPartitions.keys()) {
      await writeExactData(data(client), Array.from({ length: ROUNDS * PASSES }, (_, index) => batchIds(client, index)))
    }
    device = await openDevice('cpu', { threads: 1 })
    directory = await openModelDirectory(path)
    model = modelOf(directory.config)
  })
  afterAll(async () => {
    await device.close()
    await rm(root, { recursive: true, force: true })
  })

  const data = (client: number): string => join(root, `${client}.jsonl`)

  async function trained (changes: Partial<FoundOptions>, check: (federation: TestFederation, rounds: Work[][]) => Promise<void>): Promise<void> {
    const federation = await startFederation({ model: path, charter: { ...charter, ...changes }, clients: mixedPartitions, identities: 'passes' })
    try {
      const events = await Promise.all(federation.clients.map(async (client, index) => await client.train({ data: data(index), rounds: ROUNDS, packing: 'padded', sequences: SEQUENCES, maxTokens: 32 })))
      await check(federation, worksOf(events, changes.accumulate ?? PASSES))
    } finally {
      await federation.stop()
    }
  }

  /** Who was in each round, as the clients tell it. */
  function worksOf (events: readonly RoundEvent[][], accumulate: number): Work[][] {
    const rounds: Work[][] = []
    for (const [client, own] of events.entries()) {
      expect(own).toHaveLength(ROUNDS)
      for (const [index, { round, tokens }] of own.entries()) {
        const passes = Array.from({ length: accumulate }, (_, pass) => batchIds(client, index * accumulate + pass))
        const ids = passes.flat()
        expect(tokens).toBe(batchOf(ids).tokens);
        (rounds[round] ??= []).push({ client, ids, passes })
      }
    }
    return rounds
  }

  /** The same on one machine, to which all passes of a client in a round are one batch. */
  async function centralised (rounds: readonly Work[][]): Promise<Map<string, Tensor>> {
    const trainer = await LocalTrainer.load(device, model, directory, { trainable: adapters, optimizer })
    for (const works of rounds) await trainer.step(works.map(({ ids }) => batchOf(ids)), { learningRate: LEARNING_RATE })
    const values = await trainer.values()
    trainer.free()
    return values
  }

  /** The same with dropout: a batch for each pass, with the seed that the pass has of this client's. */
  async function centralisedWithDropout (rounds: readonly Work[][], dropout: number, seedOf: (client: number, round: number, pass: number) => string): Promise<Map<string, Tensor>> {
    const trainer = await LocalTrainer.load(device, model, directory, { trainable: { ...adapters, dropout }, optimizer })
    for (const [round, works] of rounds.entries()) {
      const passes = works.flatMap(({ client, passes }) => passes.map((ids, pass) => ({ batch: batchOf(ids), seed: seedOf(client, round, pass) })))
      await trainer.step(passes.map(({ batch }) => batch), { learningRate: LEARNING_RATE, seeds: passes.map(({ seed }) => seed) })
    }
    const values = await trainer.values()
    trainer.free()
    return values
  }

  const exported = async (federation: TestFederation, client: number): Promise<Map<string, Tensor>> => adapterTensors(await federation.clients[client]!.export(federation.path(`adapter-${client}`)))

  function expectEqual (actual: ReadonlyMap<string, Tensor>, expected: ReadonlyMap<string, Tensor>): void {
    expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort())
    for (const [name, { data }] of expected) expect(relativeError(actual.get(name)!.data as Float32Array, data as Float32Array), name).toBeLessThan(TOLERANCE)
  }

  const together = (clients: number) => Array<number>(ROUNDS).fill(clients)

  it('train what one machine trains on all of their batches', async () => {
    await trained({}, async (federation, rounds) => {
      expect(rounds.map(({ length }) => length)).toEqual(together(mixedPartitions.length))
      expectEqual(await exported(federation, 0), await centralised(rounds))
    })
  })

  it('do so one client after another with the sequential strategy', async () => {
    await trained({ strategy: 'sequential' }, async (federation, rounds) => {
      expect(rounds.map(({ length }) => length)).toEqual(Array(ROUNDS * mixedPartitions.length).fill(1))
      expectEqual(await exported(federation, 0), await centralised(rounds))
    })
  })

  it.each<[string, Partial<FoundOptions>, number?]>([
    ['personal ends', { ends: { mode: 'personal' } }],
    ['personal ends and the sequential strategy', { ends: { mode: 'personal' }, strategy: 'sequential' }],
    ['ends that are averaged every second round', { ends: { mode: 'average', every: 2 } }, 2],
    ['personal ends and one norm for all', { ends: { mode: 'personal' }, gradientNormScope: 'global' }],
    ['personal ends, the sequential strategy and one norm for all', { ends: { mode: 'personal' }, strategy: 'sequential', gradientNormScope: 'global' }],
    ['ends that are averaged every second round and one norm for all', { ends: { mode: 'average', every: 2 }, gradientNormScope: 'global' }, 2]
  ])('train what the method says with %s', async (_, changes, averageEvery) => {
    const maxGradientNorm = 0.5
    await trained({ ...changes, maxGradientNorm }, async (federation, rounds) => {
      const middles = mixedPartitions.map(({ inputBlocks, outputBlocks }) => [inputBlocks!, LAYERS - outputBlocks!] as const)
      const { gradientNormScope = 'party' } = changes
      const reference = await ApartTrainer.load(device, model, directory, { trainable: adapters, optimizer, learningRate: LEARNING_RATE, maxGradientNorm, gradientNormScope, middles, ...(averageEvery === undefined ? {} : { averageEvery }) })
      for (const works of rounds) await reference.step(works)
      for (const client of federation.clients.keys()) expectEqual(await exported(federation, client), await reference.values(client))
      reference.free()
    })
  })

  it.each([1, PASSES])('drop out what one machine does with the seeds of clients and passes, %d a round', async (accumulate) => {
    const dropout = 0.3
    await trained({ loraDropout: dropout, accumulate }, async (federation, rounds) => {
      const actual = await exported(federation, 0)
      expectEqual(actual, await centralisedWithDropout(rounds, dropout, (client, round, pass) => clientDropoutSeed(dropoutSeed(round, pass), federation.clients[client]!.peerId)))
      for (const client of [1, 2]) expectEqual(await exported(federation, client), actual)
      const others = await centralisedWithDropout(rounds, dropout, (_, round, pass) => dropoutSeed(round, pass))
      const differences = [...others].map(([name, { data }]) => relativeError(actual.get(name)!.data as Float32Array, data as Float32Array))
      expect(Math.min(...differences)).toBeGreaterThan(100 * TOLERANCE) // it is the seeds that decide
    })
  })
})
