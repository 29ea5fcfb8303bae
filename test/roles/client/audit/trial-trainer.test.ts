import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory, type ModelDirectory } from '../../../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../../../src/model/families/index.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { Batches } from '../../../../src/model/text/batches.ts'
import type { Example } from '../../../../src/model/text/dataset.ts'
import { LocalTrainer } from '../../../../src/model/training/local-trainer.ts'
import { TrialTrainer, type TrialSettings } from '../../../../src/roles/client/audit/trial-trainer.ts'
import { splitExamples } from '../../../../src/roles/client/audit/trials.ts'
import { TINY_CONFIG, writeTinyModel } from '../../../helpers/tiny-model.ts'
import { SplitTrainer } from '../training/split-trainer.ts'

const MODEL = modelOf(TINY_CONFIG)
const ADAPTERS = { r: 2, alpha: 4, dropout: 0, rslora: false, seed: '07', targets: ['q_proj', 'v_proj'] }
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
const UNPROTECTED = { hidden: { clip: null, noise: 0 }, gradient: { clip: null, noise: 0 }, keepsStream: false }
const STEPS = 3
const signal = new AbortController().signal

const example = (seed: number): Example => {
  const ids = Int32Array.from({ length: 9 }, (_, i) => 3 + (seed * 7 + i * i * (seed + 1)) % 29)
  return { ids, lossMask: Uint8Array.from(ids, (_, i) => i > 0 ? 1 : 0) }
}
const examples = Array.from({ length: 16 }, (_, i) => example(i))
/** The third token of each, and the fifth of every other, are withheld; of the last nothing is sent. */
const withheldExamples = examples.map((each, i) => ({
  ...each,
  withheld: Uint8Array.from(each.ids, (_, place) => Number(place === 2 || (place === 4 && i % 2 === 0) || i === examples.length - 1))
}))
const batches = new Batches(examples, { seed: '0', sequences: 4, mode: 'padded' })

let device: Device
let root: string
let source: ModelDirectory
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-trial-'))
  await writeTinyModel(root)
  source = await openModelDirectory(root)
  device = await openDevice('cpu', { threads: 1 })
})
afterAll(async () => {
  await device.close()
  await rm(root, { recursive: true })
})

async function trial (settings: Partial<TrialSettings>, work: (trainer: TrialTrainer) => Promise<void>): Promise<void> {
  const trainer = await TrialTrainer.load({
    device,
    model: MODEL,
    partition: { inputBlocks: 1, outputBlocks: 1 },
    trainable: ADAPTERS,
    optimizer: ADAMW,
    rounding: 'fp32',
    format: 'fp32',
    ends: source,
    middle: source,
    protection: UNPROTECTED,
    ...settings
  })
  try {
    await work(trainer)
  } finally {
    trainer.free()
  }
}

describe('a training that an audit tries', () => {
  it('is, without protection, that of one machine with the whole model', async () => {
    const local = await LocalTrainer.load(device, MODEL, source, { trainable: ADAPTERS, optimizer: ADAMW })
    await trial({}, async (trainer) => {
      for (let step = 0; step < STEPS; step++) {
        const { lossSum, countedTokens } = await local.step([batches.at({ epoch: 0, index: step }).batch], { learningRate: 0.01 })
        expect(await trainer.step(batches, 0.01, null)).toBeCloseTo(lossSum / countedTokens, 5)
      }
      const { lossSum, countedTokens } = await local.evaluate(batches.at({ epoch: 0, index: 0 }).batch)
      expect(await trainer.evaluate(batches, 1, signal)).toBeCloseTo(lossSum / countedTokens, 5)
    })
    local.free()
  })

  it('skips the middle where the client works alone, and learns without it', async () => {
    await trial({ middle: undefined }, async (trainer) => {
      const first = await trainer.step(batches, 0.05, 1)
      for (let step = 0; step < 20; step++) await trainer.step(batches, 0.05, 1)
      expect(await trainer.evaluate(batches, 4, signal)).toBeLessThan(first)
    })
  })

  it('withholds words as training does, the gate that is learnt included', async () => {
    const marked = withheldExamples
    const split = await SplitTrainer.load(device, {
      model: MODEL, source, adapters: ADAPTERS, protection: UNPROTECTED, tokens: 8, sequences: 4, data: marked, packing: 'padded'
    })
    const measured = new Batches(marked, { seed: '0', sequences: 4, mode: 'padded', keepsUnsent: true })
    await trial({}, async (trainer) => {
      const own = new Batches(marked, { seed: '0', sequences: 4, mode: 'padded' })
      for (let step = 0; step < STEPS; step++) expect(await trainer.step(own, 0.05, null)).toBeCloseTo(await split.step(0.05), 5)
      expect(await trainer.evaluate(measured, 4, signal)).toBeCloseTo(await split.evaluate(measured), 5)
    })
  })

  it('leaves no tensor on the device', async () => {
    const before = (await device.memory()).heldBytes
    const protection = { hidden: { clip: 3, noise: 0.5 }, gradient: { clip: 1, noise: 0.5 }, keepsStream: true }
    await trial({ protection, rounding: 'int8' }, async (trainer) => {
      await trainer.step(batches, 0.01, 1)
      await trainer.evaluate(batches, 1, signal)
    })
    await trial({}, async (trainer) => {
      await trainer.step(new Batches(withheldExamples, { seed: '0', sequences: 4, mode: 'padded' }), 0.01, 1)
    })
    expect((await device.memory()).heldBytes).toBe(before)
  })
})

describe('data that is held out', () => {
  it('has words that are withheld, and texts of which nothing is sent', () => {
    const split = splitExamples(withheldExamples, { seed: '0', sequences: 1, mode: 'padded' })!
    const lengths = [0, 1].map((index) => split.heldOut.at({ epoch: 0, index }).batch).map(({ ids, own }) => [ids.length, own!.tokens])
    expect(lengths.sort()).toEqual([[0, 8], [1, 8]])
  })

  it('is every eighth record, and none of those that are learnt', () => {
    const split = splitExamples(examples, { seed: '0', sequences: 1, mode: 'padded' })!
    expect([split.trained.count(0), split.heldOut.count(0)]).toEqual([14, 2])
    expect(splitExamples(examples.slice(0, 7), { seed: '0', sequences: 1, mode: 'padded' })).toBeUndefined()
  })
})
