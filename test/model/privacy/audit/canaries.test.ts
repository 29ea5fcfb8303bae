import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import {
  canaryExamples, drawCanaries, exposureOf, exposuresBy, secretLosses, trainTogether, type Exposures
} from '../../../../src/model/privacy/audit/canaries.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { Batches } from '../../../../src/model/text/batches.ts'
import type { Example } from '../../../../src/model/text/dataset.ts'
import { LocalTrainer } from '../../../../src/model/training/local-trainer.ts'
import { baseWeights, decodeTensor, readGolden, type EncodedTensor, type ModelGolden } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'

/** test/reference/audit_canaries_golden.py. */
interface CanaryGolden extends Pick<ModelGolden, 'name' | 'seed' | 'config' | 'shapes'> {
  readonly prefix: readonly number[]
  readonly secrets: ReadonlyArray<readonly number[]>
  readonly losses: EncodedTensor
  readonly exposures: readonly number[]
}

const ADAPTERS = { r: 4, alpha: 8, dropout: 0, rslora: false, seed: '07', targets: ['q_proj', 'v_proj', 'up_proj', 'down_proj'] }
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
const signal = new AbortController().signal
const goldens = readGolden<CanaryGolden[]>('audit_canaries.json')

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

async function withTrainer<Result> (golden: CanaryGolden, work: (trainer: LocalTrainer) => Promise<Result>): Promise<Result> {
  const source = memorySource(baseWeights(golden))
  const trainer = await LocalTrainer.load(device, modelOf(golden.config), source, { trainable: ADAPTERS, optimizer: ADAMW })
  try {
    return await work(trainer)
  } finally {
    trainer.free()
  }
}

const ordinary = (seed: number): Example => {
  const ids = Int32Array.from({ length: 8 }, (_, i) => 1 + (seed * 5 + i * (seed + 2)) % 20)
  return { ids, lossMask: Uint8Array.from(ids, (_, i) => Number(i > 0)) }
}

describe('exposure', () => {
  it('is the logarithm of how many guesses a secret saves', () => {
    const references = [1, 2, 3, 4, 5, 6, 7]
    expect([exposureOf(0.5, references), exposureOf(7.5, references), exposureOf(3.5, references)]).toEqual([3, 0, 1])
    expect(exposureOf(4, references)).toBeCloseTo(3 - Math.log2(4.5), 10)
  })

  it.each(goldens)('is by the same losses as in PyTorch: $name', async (golden) => {
    const losses = await withTrainer(golden, async (trainer) => await secretLosses(trainer, golden.prefix, golden.secrets))
    const expected = decodeTensor(golden.losses).data
    for (const [i, loss] of losses.entries()) {
      expect(Math.abs(loss - Number(expected[i]))).toBeLessThan(1e-4)
      expect(exposureOf(loss, losses.toSpliced(i, 1))).toBeCloseTo(golden.exposures[i]!, 10)
    }
  })
})

describe('secrets in trained adapters', { timeout: 60_000 }, () => {
  const [golden] = goldens as [CanaryGolden]
  const canaries = drawCanaries({ prefix: [3, 5], alphabet: Array.from({ length: 16 }, (_, i) => 4 + i), length: 4, count: 2, references: 255, seed: 'test' })
  const bits = async (contributors: number): Promise<Exposures> => await withTrainer(golden, async (trainer) => {
    const texts = Array.from({ length: contributors }, (_, i) => [
      ...Array.from({ length: 4 }, (_, record) => ordinary(4 * i + record)), ...i === 0 ? canaryExamples(canaries, 2) : []
    ])
    const batches = texts.map((text, i) => new Batches(text, { seed: String(i), sequences: 8, mode: 'padded' }))
    const training = trainTogether(trainer, batches, { rounds: 30, learningRate: 0.03, maxGradientNorm: 1 }, signal)
    for (let next = await training.next(); next.done !== true; next = await training.next());
    return await exposuresBy(trainer, canaries)
  })

  it('are found where they were planted, and not where they were not', async () => {
    const { planted, unplanted, most } = await bits(1)
    expect(most).toBe(8)
    expect(planted).toEqual([8, 8])
    for (const exposure of unplanted) expect(exposure).toBeLessThan(6)
  })

  it('are found as well where others add what they trained', async () => {
    const { planted, unplanted } = await bits(2)
    for (const exposure of planted) expect(exposure).toBeGreaterThan(6)
    for (const exposure of unplanted) expect(exposure).toBeLessThan(6)
  })

  it('are different ones, and no more than there are', () => {
    const { planted, unplanted, references } = canaries
    expect(new Set([...planted, ...unplanted, ...references].map(String)).size).toBe(259)
    expect(() => drawCanaries({ prefix: [1], alphabet: [1, 2], length: 3, count: 1, references: 3, seed: '' })).toThrow(RangeError)
  })
})
