import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf, type Model } from '../../../src/model/families/index.ts'
import { GradientSum } from '../../../src/model/layers/gradient-sum.ts'
import { concatRows, sliceRows } from '../../../src/model/layers/hidden-states.ts'
import type { AdapterSettings } from '../../../src/model/layers/lora.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import type { ResidualSetting } from '../../../src/model/training/activation-checkpointing.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import type { Tensor } from '../../../src/tensor.ts'
import { baseWeights, decodeTensor, goldenNames, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const values = async (value: DeviceTensor): Promise<ArrayLike<number>> => (await device.download(value)).data as Float32Array
const settings = (lora: { r: number, alpha: number, targets: readonly string[] }, dropout = 0): AdapterSettings => ({
  ...lora,
  dropout,
  rslora: false,
  seed: 'test'
})

async function goldenSpan (name: string, policy: ResidualSetting = 'saved', dropout = 0) {
  const golden = readModelGolden(name)
  const model = modelOf(golden.config)
  const span = await TrainableSpan.load(
    device,
    model,
    memorySource(baseWeights(golden)),
    { first: 0, end: model.layers },
    settings(golden.lora, dropout),
    { policy }
  )
  return { golden, model, span, lengths: golden.ids.map((ids) => ids.length) }
}

/** One long sequence among so many of one row that padding them all to it would take thousands of places. */
function unevenBatch ({ maxPositions, hiddenSize }: Model): { lengths: number[], rows: Tensor } {
  const lengths = [1, 1, maxPositions, ...Array<number>(Math.ceil(5000 / maxPositions)).fill(1)]
  const count = lengths.reduce((sum, length) => sum + length, 0)
  return { lengths, rows: baseWeights({ seed: 'uneven', shapes: { rows: [count, hiddenSize] } }).get('rows')! }
}

describe('TrainableSpan against PyTorch', () => {
  it.each(goldenNames)('passes the hidden states of every block of %s', async (name) => {
    const { golden, model, span, lengths } = await goldenSpan(name)
    for (let layer = 0; layer < model.layers; layer++) {
      const { hidden } = await span.forward({ hidden: decodeTensor(golden.hidden[layer]!), lengths }, {
        keepResiduals: false,
        first: layer,
        end: layer + 1
      })
      expect(relativeError(await values(hidden), decodeTensor(golden.hidden[layer + 1]!).data as Float32Array)).toBeLessThan(2e-6)
      device.free(hidden)
    }
    span.free()
  })

  it.each(goldenNames.flatMap((name) => [[name, 'saved'], [name, 'recomputed']] as const))(
    'has the gradients of %s with residuals %s',
    async (name, policy) => {
      const { golden, model, span, lengths } = await goldenSpan(name, policy)
      await span.weights.setTrained(loraWeights(golden))
      const { hidden, residuals } = await span.forward({ hidden: decodeTensor(golden.loraHidden[0]!), lengths }, { keepResiduals: true })
      expect(relativeError(await values(hidden), decodeTensor(golden.loraHidden[model.layers]!).data as Float32Array)).toBeLessThan(5e-6)
      const { gradient, adapters } = await span.backward(residuals!, decodeTensor(golden.hiddenGradients[model.layers]!))
      expect(relativeError(await values(gradient), decodeTensor(golden.hiddenGradients[0]!).data as Float32Array)).toBeLessThan(2e-5)
      expect([...adapters.keys()].sort()).toEqual(Object.keys(golden.gradients).sort())
      for (const [parameter, value] of adapters)
        expect(relativeError(await values(value), decodeTensor(golden.gradients[parameter]!).data as Float32Array), parameter).toBeLessThan(
          2e-5
        )
      device.free(hidden, gradient, ...adapters.values())
      span.free()
    }
  )
})

describe('TrainableSpan', () => {
  it('computes the same for rows that enter and leave within the span', async () => {
    const { golden, span, lengths } = await goldenSpan('llama/gqa')
    await span.weights.setTrained(loraWeights(golden))
    const whole = decodeTensor(golden.hidden[0]!)
    const [a, b] = [await sliceRows(device, whole, 0, lengths[0]!), await sliceRows(device, whole, lengths[0]!, whole.shape[0]!)]
    const first = await span.forward({ hidden: a, lengths: lengths.slice(0, 1) }, { keepResiduals: true, end: 1 })
    const joined = await concatRows(device, [first.hidden, b])
    const second = await span.forward({ hidden: joined, lengths }, { keepResiduals: true, first: 1, end: 3 })
    const apart = await span.forward({ hidden: b, lengths: lengths.slice(1) }, { keepResiduals: false, first: 1 })
    const together = await sliceRows(device, second.hidden, lengths[0]!, whole.shape[0]!)
    expect(relativeError(await values(together), await values(apart.hidden))).toBeLessThan(1e-6)
    second.residuals!.free()
    first.residuals!.free()
    device.free(a, b, joined, first.hidden, second.hidden, apart.hidden, together)
    span.free()
  })

  it('holds nothing after a step but its weights and rotations', async () => {
    const { golden, span, lengths } = await goldenSpan('llama/plain')
    await span.weights.rotary.reaching(Math.max(...lengths))
    const before = await device.memory()
    const { hidden, residuals } = await span.forward({ hidden: decodeTensor(golden.hidden[0]!), lengths }, { keepResiduals: true })
    const { gradient, adapters } = await span.backward(residuals!, decodeTensor(golden.hidden[0]!))
    device.free(hidden, gradient, ...adapters.values())
    expect((await device.memory()).heldBytes).toBe(before.heldBytes)
    span.free()
  })

  it('computes the same while it measures how to keep residuals, and tells what they take', async () => {
    const { golden, span, lengths } = await goldenSpan('llama/gqa', 'auto')
    const rows = { hidden: decodeTensor(golden.hidden[0]!), lengths }
    const gradients: number[][] = []
    for (let pass = 0; pass < 9; pass++) {
      const { hidden, residuals } = await span.forward(rows, { keepResiduals: true })
      const { gradient, adapters } = await span.backward(residuals!, decodeTensor(golden.hidden[0]!))
      gradients.push([...await values(gradient) as Float32Array])
      device.free(hidden, gradient, ...adapters.values())
    }
    for (const gradient of gradients) expect(relativeError(gradient, gradients[0]!)).toBeLessThan(1e-6)
    const { policy, saved, recomputed } = span.residuals.report
    expect(policy).toMatch(/^(saved|recomputed)$/)
    expect(recomputed!.bytesPerRow).toBe(4 * 32) // the rows that enter a block
    expect(saved!.bytesPerRow).toBeGreaterThan(recomputed!.bytesPerRow)
    span.free()
  })

  it('computes sequences of very different lengths in several runs, as each alone', async () => {
    const { model, golden, span } = await goldenSpan('llama/gqa')
    await span.weights.setTrained(loraWeights(golden))
    const { lengths, rows } = unevenBatch(model)
    await span.weights.rotary.reaching(model.maxPositions)
    const before = await device.memory()
    const { hidden, residuals } = await span.forward({ hidden: rows, lengths }, { keepResiduals: true })
    const evaluated = await span.forward({ hidden: rows, lengths }, { keepResiduals: false })
    const { gradient, adapters } = await span.backward(residuals!, rows)
    const sums = new GradientSum(device)
    let start = 0
    for (const length of lengths) {
      const own = await sliceRows(device, rows, start, start + length)
      const alone = await span.forward({ hidden: own, lengths: [length] }, { keepResiduals: true })
      const back = await span.backward(alone.residuals!, own)
      for (const [together, apart] of [[hidden, alone.hidden], [evaluated.hidden, alone.hidden], [gradient, back.gradient]] as const) {
        const part = await sliceRows(device, together, start, start + length)
        expect(relativeError(await values(part), await values(apart))).toBeLessThan(1e-5)
        device.free(part)
      }
      await sums.add(back.adapters)
      device.free(own, alone.hidden, back.gradient)
      start += length
    }
    for (const [name, value] of sums.gradients)
      expect(relativeError(await values(adapters.get(name)!), await values(value)), name).toBeLessThan(1e-4)
    sums[Symbol.dispose]()
    device.free(hidden, evaluated.hidden, gradient, ...adapters.values())
    expect((await device.memory()).heldBytes).toBe(before.heldBytes)
    span.free()
  })

  it('drops out by a row\'s place among all rows of its seed, however many runs compute them', async () => {
    const { model, golden, span } = await goldenSpan('llama/gqa', 'saved', 0.4)
    await span.weights.setTrained(loraWeights(golden))
    const { lengths, rows } = unevenBatch(model)
    const count = rows.shape[0]!
    const seeds = [{ rows: 20, seed: 'a' }, { rows: count - 20, seed: 'b' }]
    const uneven = await span.forward({ hidden: rows, lengths }, { keepResiduals: true, seeds })
    // Rows that are sequences of their own see nothing but themselves: they come out alike where all rows are such, in one run.
    const single = await span.forward({ hidden: rows, lengths: Array<number>(count).fill(1) }, { keepResiduals: true, seeds })
    const [first, last] = [await values(uneven.hidden), await values(single.hidden)]
    const tail = (all: ArrayLike<number>): number[] => Array.from(all).slice(-40 * model.hiddenSize)
    expect(relativeError(tail(first), tail(last))).toBeLessThan(1e-6)
    for (const { residuals, hidden } of [uneven, single]) {
      residuals!.free()
      device.free(hidden)
    }
    span.free()
  })

  it('drops out the same elements for the same seed, and others for another', async () => {
    const { golden, span, lengths } = await goldenSpan('llama/plain', 'saved', 0.5)
    await span.weights.setTrained(loraWeights(golden))
    const rows = { hidden: decodeTensor(golden.hidden[0]!), lengths }
    const outputs: number[][] = []
    for (const seed of ['a', 'a', 'b']) {
      const { hidden, residuals } = await span.forward(rows, { keepResiduals: true, seeds: [{ rows: rows.hidden.shape[0]!, seed }] })
      outputs.push([...await values(hidden) as Float32Array])
      const { gradient, adapters } = await span.backward(residuals!, decodeTensor(golden.hidden[0]!))
      device.free(hidden, gradient, ...adapters.values())
    }
    expect(outputs[0]).toEqual(outputs[1])
    expect(outputs[0]).not.toEqual(outputs[2])
    await expect(span.forward(rows, { keepResiduals: true })).rejects.toThrow('without a seed')
    span.free()
  })

  it('refuses blocks it does not hold and rows that do not fit', async () => {
    const { golden, span, lengths } = await goldenSpan('llama/plain')
    const hidden = decodeTensor(golden.hidden[0]!)
    await expect(span.forward({ hidden, lengths }, { keepResiduals: false, first: 0, end: 3 })).rejects.toThrow('not within')
    await expect(span.forward({ hidden, lengths: [1] }, { keepResiduals: false })).rejects.toThrow('do not fit')
    span.free()
  })
})
