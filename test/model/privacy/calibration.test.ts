import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { Boundary } from '../../../src/model/privacy/boundary.ts'
import { calibrate, type CalibrationSettings, NOISE_STEPS, type SampleRun } from '../../../src/model/privacy/calibration.ts'
import type { Sample } from '../../../src/model/privacy/sample.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import { BlockwiseRun } from '../../../src/model/training/sample-run.ts'
import { readChatGLMGolden } from '../../helpers/chatglm.ts'
import { baseWeights, readModelGolden } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const llama = readModelGolden('llama/plain')
const SETTINGS: CalibrationSettings = { cuts: { hidden: [0, 1], gradient: [1, 2] }, clipAlways: false, noise: 0 }

/** Sequences that a model can read: with the tokens that close a prompt in their midst, where it has such. */
function sampleFor (golden: typeof llama): Sample {
  const { vocabularySize, prompts } = modelOf(golden.config)
  const ids = [5, 11, 7].map((step) =>
    Array.from({ length: 12 }, (_, i) => (3 + i * step) % Math.min(vocabularySize, 50)).toSpliced(6, 0, ...prompts?.closing ?? []))
  return { ids, targets: ids.map((sequence) => [...sequence.slice(1), 4]) }
}

describe('calibrate', () => {
  it.each([['llama/plain', llama], ['chatglm/150528', readChatGLMGolden('150528')]])(
    'measures %s at each cut, and leaves nothing on the device',
    async (_, golden) => {
      const model = modelOf(golden.config)
      const before = await device.memory()
      const run = new BlockwiseRun(device, model, memorySource(baseWeights(golden)), sampleFor(golden))
      const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp16' })
      const settings = { ...SETTINGS, cuts: { hidden: [0, 1], gradient: [1, model.layers] }, noise: 0.3 }
      const { clips, losses } = await calibrate(device, boundary, run, settings, AbortSignal.timeout(10_000))
      expect(Object.keys(clips.hidden)).toEqual(['0', '1'])
      expect(Object.keys(clips.gradient)).toEqual(['1', String(model.layers)])
      for (const norm of [...Object.values(clips.hidden), ...Object.values(clips.gradient)]) expect(norm).toBeGreaterThan(0)
      expect(Object.keys(losses)).toEqual(['0', '1'])
      for (const table of Object.values(losses)) expect(table.map(({ noise }) => noise)).toEqual([0, ...NOISE_STEPS, 0.3].sort())
      expect((await device.memory()).heldBytes).toBe(before.heldBytes)
    }
  )

  it('measures without noise what the whole model loses', async () => {
    const model = modelOf(llama.config)
    const source = memorySource(baseWeights(llama))
    const sample = sampleFor(llama)
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
    const run = new BlockwiseRun(device, model, source, sample)
    const { losses } = await calibrate(device, boundary, run, SETTINGS, AbortSignal.timeout(10_000))
    const whole = await loadClientModel(device, model, source, { inputBlocks: model.layers, outputBlocks: 0 }, {
      r: 1, alpha: 1, dropout: 0, rslora: false, targets: [], seed: ''
    })
    const { hidden } = await whole.bottom.forward(sample.ids, { keepResiduals: false })
    const { lossSum, countedTokens } = await whole.top.evaluate({ hidden, lengths: sample.ids.map(({ length }) => length) }, sample.targets)
    expect(losses['0']![0]!.loss).toBeCloseTo(lossSum / countedTokens, 2)
    expect(losses['1']![0]!.loss).toBeCloseTo(lossSum / countedTokens, 2)
    device.free(hidden)
    whole.weights.free()
  })

  it('keeps the residual stream until the top begins: noise costs nothing where nothing is between', async () => {
    const model = modelOf(llama.config)
    const run = new BlockwiseRun(device, model, memorySource(baseWeights(llama)), sampleFor(llama))
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
    const settings = { ...SETTINGS, cuts: { hidden: [0, 1], gradient: [1] } }
    const { losses } = await calibrate(device, boundary, run, settings, AbortSignal.timeout(10_000))
    const [without, ...others] = losses['1']!
    for (const { loss } of others) expect(loss).toBeCloseTo(without!.loss, 2)
    expect(Math.abs(losses['0']!.at(-1)!.loss - without!.loss)).toBeGreaterThan(1e-3)
  })

  it('takes a given clip for all cuts, computes no gradient for it, and measures the first and the last cut alone', async () => {
    const model = modelOf(llama.config)
    const hidden = (): Promise<Awaited<ReturnType<SampleRun['embed']>>> => device.zeros('float32', [4, model.hiddenSize])
    const run: SampleRun = {
      blocks: 9,
      embed: hidden,
      advance: async (_, given) => await Promise.all(given.map(hidden)),
      gradient: () => { throw new Error('a gradient was asked for') },
      losses: async (given) => given.map((_, i) => i === 0 ? NaN : i)
    }
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp16' })
    const cuts = { hidden: [2, 3, 4, 5], gradient: [7, 8] }
    const settings = { ...SETTINGS, cuts, clip: 7, clipAlways: true }
    const { clips, losses } = await calibrate(device, boundary, run, settings, AbortSignal.timeout(10_000))
    expect(clips).toEqual({ hidden: { 2: 7, 3: 7, 4: 7, 5: 7 }, gradient: { 7: 7, 8: 7 } })
    expect(Object.keys(losses)).toEqual(['2', '5'])
    // A loss that is no number is left out.
    expect(losses['2']!.map(({ noise }) => noise)).toEqual(NOISE_STEPS)
  })
})
