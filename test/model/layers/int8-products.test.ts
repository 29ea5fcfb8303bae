import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { blockTensor, blockWeights, modelOf } from '../../../src/model/families/index.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { Graph } from '../../../src/model/graph/graph.ts'
import { multiplyIntegers } from '../../../src/model/graph/operators/index.ts'
import { program } from '../../../src/model/graph/program.ts'
import { columnSteps, stepsFor } from '../../../src/model/layers/int8-range.ts'
import type { AdapterSettings } from '../../../src/model/layers/lora.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { elementCount, float32, tensor } from '../../../src/tensor.ts'
import { answersOf } from '../../helpers/chatglm.ts'
import { baseWeights, decodeTensor, loraWeights, readModelGolden, relativeError, type ModelGolden } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let plain: Device
let int8: Device
beforeAll(async () => {
  [plain, int8] = await Promise.all([openDevice('cpu', { threads: 1 }), openDevice('cpu', { threads: 1, compute: 'int8' })])
})
afterAll(async () => { await Promise.all([plain.close(), int8.close()]) })

/** How far hidden states and gradients of the small models lie from float32's, relative to the largest. */
const [HIDDEN_BOUND, GRADIENT_BOUND] = [0.03, 0.1]
/** How far a loss lies from float32's, as a share of it. */
const LOSS_BOUND = 0.01

const adaptersOf = ({ lora }: ModelGolden): AdapterSettings => ({ ...lora, dropout: 0, rslora: false, seed: 'test' })
const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }

function batchOf ({ ids, config }: ModelGolden) {
  if (modelOf(config).prompts !== undefined) return answersOf(ids)
  return { ids: ids.map((sequence) => sequence.slice(0, -1)), targets: ids.map((sequence) => sequence.slice(1)) }
}

async function valuesOf (device: Device, value: DeviceTensor): Promise<Float32Array> {
  return (await device.download(value)).data as Float32Array
}

/** The hidden states, the gradients and, of the first sequence, the cached hidden states of all blocks of a model. */
async function passes (device: Device, golden: ModelGolden): Promise<Record<'hidden' | 'gradient' | 'cached', Float32Array>> {
  const model = modelOf(golden.config)
  const span = { first: 0, end: model.layers }
  const blocks = await TrainableSpan.load(device, model, memorySource(baseWeights(golden)), span, adaptersOf(golden))
  await blocks.weights.setTrained(loraWeights(golden))
  const states = decodeTensor(golden.loraHidden[0]!)
  const lengths = golden.ids.map(({ length }) => length)
  const { hidden, residuals } = await blocks.forward({ hidden: states, lengths }, { keepResiduals: true })
  const { gradient, adapters } = await blocks.backward(residuals!, decodeTensor(golden.hiddenGradients[model.layers]!))
  const cache = await SequenceCache.create(device, model, span, 32)
  const count = golden.ids[0]!.length
  const first = float32([count, model.hiddenSize], (states.data as Float32Array).slice(0, count * model.hiddenSize))
  const cached = await new CachedSpan(blocks.weights).forward(first, [{ cache, count }], span)
  const results = {
    hidden: await valuesOf(device, hidden),
    gradient: await valuesOf(device, gradient),
    cached: await valuesOf(device, cached)
  }
  device.free(hidden, gradient, cached, ...adapters.values())
  cache.free()
  blocks.free()
  return results
}

describe('int8 products', () => {
  it.each(['llama/gqa', 'qwen3/bias-window-tied'])('give hidden states and gradients close to those of float32 in %s, cached or not', async (name) => {
    const golden = readModelGolden(name)
    const [exact, rounded] = [await passes(plain, golden), await passes(int8, golden)]
    for (const values of Object.values(rounded)) expect(values.every(Number.isFinite)).toBe(true)
    expect(relativeError(rounded.hidden, exact.hidden)).toBeLessThan(HIDDEN_BOUND)
    expect(relativeError(rounded.hidden, exact.hidden)).toBeGreaterThan(1e-5)
    expect(relativeError(rounded.gradient, exact.gradient)).toBeLessThan(GRADIENT_BOUND)
    expect(relativeError(rounded.cached, exact.cached)).toBeLessThan(HIDDEN_BOUND)
    // Rows are rounded one by one: a pass that keeps a cache computes what training does, but for codes that float rounding moves by one.
    expect(relativeError(rounded.cached, rounded.hidden.slice(0, rounded.cached.length))).toBeLessThan(HIDDEN_BOUND / 2)
  })

  it.each(['llama/gqa', 'chatglm/150528'])('train %s: the loss is close to that of float32, and comes down with it', async (name) => {
    const golden = readModelGolden(name)
    const losses = async (device: Device): Promise<number[]> => {
      const trainer = await LocalTrainer.load(device, modelOf(golden.config), memorySource(baseWeights(golden)), {
        trainable: adaptersOf(golden), optimizer
      })
      const all: number[] = []
      for (let i = 0; i < 6; i++) all.push((await trainer.step([batchOf(golden)], { learningRate: 1e-2 })).lossSum)
      trainer.free()
      return all
    }
    const [exact, rounded] = [await losses(plain), await losses(int8)]
    for (const [i, loss] of rounded.entries()) expect(Math.abs(loss / exact[i]! - 1)).toBeLessThan(LOSS_BOUND)
    expect(rounded.at(-1)!).toBeLessThan(rounded[0]!)
  })
})

describe('weights for int8 products', () => {
  const golden = readModelGolden('llama/gqa')

  it('are a byte an element for each way, and what is trained stays float32', async () => {
    const model = modelOf({ ...golden.config, hidden_size: 64, intermediate_size: 128 })
    const weights = new ModelWeights(int8, model, adaptersOf(golden))
    const zeros = blockWeights(model).map(({ name, shape }) =>
      [blockTensor(model, 0, name), float32(shape, new Float32Array(elementCount(shape)))] as const
    )
    await weights.loadBlocks(memorySource(new Map(zeros)), { first: 0, end: 1 })
    const inputs = weights.blockInputs(0)
    expect(inputs['mlp.gate_proj.weight.codes']).toMatchObject({ dtype: 'int8', shape: [64, 128] })
    const matrices = blockWeights(model).filter(({ shape }) => shape.length === 2)
    const codes = Object.entries(inputs).filter(([name]) => /\.(codes|transposedCodes)$/.test(name))
    const elements = (all: ReadonlyArray<{ readonly shape: readonly number[] }>): number =>
      all.reduce((sum, { shape }) => sum + elementCount(shape), 0)
    expect(elements(codes.map(([, tensor]) => tensor))).toBe(2 * elements(matrices))
    expect(Object.entries(inputs).filter(([name]) => /lora|norm/.test(name)).every(([, { dtype }]) => dtype === 'float32')).toBe(true)
    weights.free()
  })

  it('are float32 where they are trained themselves, and blocks of codes where they are kept in fewer bits', () => {
    const model = modelOf(golden.config)
    expect(new ModelWeights(int8, model, 'weights').blockFormat(0)).toBe('fp32')
    expect(new ModelWeights(int8, model, adaptersOf(golden), 'int4').blockFormat(0)).toBe('int4')
    expect(new ModelWeights(int8, model, adaptersOf(golden), 'fp16').blockFormat(0)).toBe('int8-products')
  })
})

describe('the steps of a column', () => {
  it('are half as many where a device adds pairs of products in 16 bits', () => {
    expect(stepsFor(new Int32Array(4).fill(64 * 255 * 127))).toBe(127)
    expect(stepsFor(new Int32Array(4).fill(32 * 32_767))).toBe(64)
  })

  it('do not saturate on this device', async () => {
    const steps = await columnSteps(int8)
    const graph = new Graph()
    graph.output('y', multiplyIntegers(graph.input('a', 'uint8', [3, 128]), graph.input('b', 'int8', [128, 16])))
    const { y } = await (await int8.compile(program('greatest', graph))).run({
      a: tensor('uint8', [3, 128], new Uint8Array(384).fill(255)),
      b: tensor('int8', [128, 16], new Int8Array(2048).fill(-steps))
    })
    expect([...(y as { data: Int32Array }).data].every((sum) => sum === -128 * 255 * steps)).toBe(true)
  })
})

it('int8 products are refused on a device that has none', async () => {
  await expect(openDevice('webgpu', { compute: 'int8' })).rejects.toThrow('the device webgpu has no int8 products')
})
