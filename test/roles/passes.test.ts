import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory, type ModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf, type Model } from '../../src/model/families/index.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { clientDropoutSeed, dropoutSeed } from '../../src/roles/training/participant.ts'
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
const charter: Partial<CreateOptions> = {
  seed: adapters.seed,
  loraR: adapters.r,
  loraAlpha: adapters.alpha,
  loraTargets: ['q', 'down'],
  learningRate: LEARNING_RATE,
  ...optimizer,
  accumulate: PASSES,
  minClients: mixedPartitions.length
}

/** What a client brings to its rounds, pass after pass: sequences that differ in length, so that clients and passes differ in tokens. */
function batchIds (client: number, index: number): number[][] {
  return Array.from(
    { length: SEQUENCES },
    (_, i) => [
      BOS,
      ...Array.from({ length: 3 + (5 * client + 4 * index + 7 * i) % 11 }, (_, j) => 2 + (7 * j + 11 * index + 5 * client + 3 * i) % 29)
    ]
  )
}

/** Every pass of every client in it. */
type Round = Array<Required<Share>>

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

  async function trained (
    changes: Partial<CreateOptions>,
    check: (federation: TestFederation, rounds: readonly Round[]) => Promise<void>
  ): Promise<void> {
    const federation = await startFederation({
      model: path,
      charter: { ...charter, ...changes },
      clients: mixedPartitions,
      identities: 'passes'
    })
    try {
      const events = await Promise.all(
        federation.clients.map(async (client, index) =>
          await client.train({ data: data(index), rounds: ROUNDS, packing: 'padded', sequences: SEQUENCES, maxTokens: 32 })
        )
      )
      await check(federation, sharesOf(federation, events, changes.accumulate ?? PASSES))
    } finally {
      await federation.stop()
    }
  }

  /** The passes of each round, as the clients tell who was in it. */
  function sharesOf ({ clients }: TestFederation, events: readonly RoundEvent[][], accumulate: number): Round[] {
    const rounds: Round[] = []
    for (const [client, own] of events.entries()) {
      expect(own).toHaveLength(ROUNDS)
      for (const [index, { round, tokens }] of own.entries()) {
        const shares = Array.from(
          { length: accumulate },
          (_, pass) => ({
            client,
            ids: batchIds(client, index * accumulate + pass),
            seed: clientDropoutSeed(dropoutSeed(round, pass), clients[client]!.peerId)
          })
        )
        expect(tokens).toBe(shares.reduce((sum, { ids }) => sum + batchOf(ids).tokens, 0))
        ;(rounds[round] ??= []).push(...shares)
      }
    }
    return rounds
  }

  /** The same on one machine. */
  async function centralised (rounds: readonly Round[], dropout = 0): Promise<Map<string, Tensor>> {
    const trainer = await LocalTrainer.load(device, model, directory, { trainable: { ...adapters, dropout }, optimizer })
    for (const shares of rounds)
      await trainer.step(shares.map(({ ids }) => batchOf(ids)), {
        learningRate: LEARNING_RATE,
        seeds: shares.map(({ seed }) => seed)
      })
    const values = await trainer.values()
    trainer.free()
    return values
  }

  const exported = async (federation: TestFederation, client: number): Promise<Map<string, Tensor>> =>
    adapterTensors(await federation.clients[client]!.export(federation.path(`adapter-${client}`)))

  function expectEqual (actual: ReadonlyMap<string, Tensor>, expected: ReadonlyMap<string, Tensor>): void {
    expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort())
    for (const [name, { data }] of expected)
      expect(relativeError(actual.get(name)!.data as Float32Array, data as Float32Array), name).toBeLessThan(TOLERANCE)
  }

  it('train what one machine trains on all of their batches', async () => {
    await trained({}, async (federation, rounds) => {
      expect(rounds.map(({ length }) => length)).toEqual(Array(ROUNDS).fill(PASSES * mixedPartitions.length))
      expectEqual(await exported(federation, 0), await centralised(rounds))
    })
  })

  it('do so one client after another with the sequential strategy', async () => {
    await trained({ strategy: 'sequential' }, async (federation, rounds) => {
      expect(rounds.map(({ length }) => length)).toEqual(Array(ROUNDS * mixedPartitions.length).fill(PASSES))
      expectEqual(await exported(federation, 0), await centralised(rounds))
    })
  })

  it.each<[string, Partial<CreateOptions>, number?]>([
    ['personal ends', { ends: { mode: 'personal' } }],
    ['personal ends and the sequential strategy', { ends: { mode: 'personal' }, strategy: 'sequential' }],
    ['ends that are averaged every second round', { ends: { mode: 'average', every: 2 } }, 2],
    ['averaged ends and dropout', { ends: { mode: 'average', every: 2 }, loraDropout: 0.3 }, 2],
    ['personal ends and one norm for all', { ends: { mode: 'personal' }, gradientNormScope: 'global' }],
    ['personal ends, the sequential strategy and one norm for all', {
      ends: { mode: 'personal' },
      strategy: 'sequential',
      gradientNormScope: 'global'
    }],
    [
      'ends that are averaged every second round and one norm for all',
      { ends: { mode: 'average', every: 2 }, gradientNormScope: 'global' },
      2
    ]
  ])('train what the method says with %s', async (_, changes, averageEvery) => {
    const maxGradientNorm = 0.5
    const { loraDropout = 0, gradientNormScope = 'party' } = changes
    await trained({ ...changes, maxGradientNorm }, async (federation, rounds) => {
      const middles = mixedPartitions.map(({ inputBlocks, outputBlocks }) => [inputBlocks!, LAYERS - outputBlocks!] as const)
      const reference = await ApartTrainer.load(device, model, directory, {
        trainable: { ...adapters, dropout: loraDropout },
        optimizer,
        learningRate: LEARNING_RATE,
        maxGradientNorm,
        gradientNormScope,
        middles,
        ...(averageEvery === undefined ? {} : { averageEvery })
      })
      for (const shares of rounds) await reference.step(shares)
      for (const client of federation.clients.keys()) expectEqual(await exported(federation, client), await reference.values(client))
      reference.free()
    })
  })

  it.each([1, PASSES])('drop out what one machine does with the seeds of clients and passes, %d a round', async (accumulate) => {
    const loraDropout = 0.3
    await trained({ loraDropout, accumulate }, async (federation, rounds) => {
      const actual = await exported(federation, 0)
      expectEqual(actual, await centralised(rounds, loraDropout))
      const others = await centralised(
        rounds.map((shares) => shares.map((share) => ({ ...share, seed: `not ${share.seed}` }))),
        loraDropout
      )
      const differences = [...others].map(([name, { data }]) => relativeError(actual.get(name)!.data as Float32Array, data as Float32Array))
      expect(Math.min(...differences)).toBeGreaterThan(100 * TOLERANCE) // it is the seeds that decide
    })
  })
})
