import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { LocalGenerator } from '../../../src/model/generation/local-generator.ts'
import { argmax } from '../../../src/model/generation/sampling.ts'
import { concatRows, sliceRows } from '../../../src/model/layers/hidden-states.ts'
import type { WeightFormat } from '../../../src/model/layers/weight-format.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { baseWeights, decodeTensor, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const values = async (value: DeviceTensor): Promise<Float32Array> => (await device.download(value)).data as Float32Array

/** Of hidden states after all blocks. Quantised products of generation round their inputs to 8 bits, which those of training do not. */
const TOLERANCE: Record<Exclude<WeightFormat, 'fp32'>, number> = { fp16: 1e-5, int8: 2e-2, int4: 2e-2 }
const formats = Object.entries(TOLERANCE) as Array<[keyof typeof TOLERANCE, number]>

async function setUp (name: string, format: WeightFormat) {
  const golden = readModelGolden(name)
  const model = modelOf(golden.config)
  const all = { first: 0, end: model.layers }
  const span = await TrainableSpan.load(device, model, memorySource(baseWeights(golden)), all, {
    ...golden.lora,
    dropout: 0,
    rslora: false,
    seed: ''
  }, { format })
  await span.weights.setTrained(loraWeights(golden))
  const context = model.prompts?.context(golden.ids[0]!, 'read')
  // The sequences of a model that reads prompts in both directions have the token that ends them, which is not among the rows.
  const length = golden.ids[0]!.length - (context === undefined ? 0 : 1)
  return {
    model,
    all,
    span,
    length,
    context,
    rows: await sliceRows(device, decodeTensor(golden.loraHidden[0]!), 0, length),
    cache: await SequenceCache.create(device, model, all, 32)
  }
}

describe.each(formats)('generation with weights in %s', (format, tolerance) => {
  it.each(['llama/gqa', 'qwen3/plain', 'chatglm2/plain', 'chatglm/130528'])(
    'computes what training does in %s, whether a sequence comes at once or row by row',
    async (name) => {
      const { span, all, length, context, rows, cache } = await setUp(name, format)
      const { hidden } = await span.forward({ hidden: rows, lengths: [length], contexts: context === undefined ? [] : [context] }, {
        keepResiduals: false
      })
      const blocks = new CachedSpan(span.weights)
      const atOnce = await blocks.forward(rows, [{ cache, count: length, context }], all)
      const parts: DeviceTensor[] = []
      while (cache.length < length) {
        const count = cache.length === 0 ? (context?.length ?? 0) + 1 : 1
        parts.push(
          await blocks.forward(await sliceRows(device, rows, cache.length, cache.length + count), [{ cache, count, context }], all)
        )
        cache.length += count
      }
      const [wanted, once, apart] = await Promise.all([hidden, atOnce, await concatRows(device, parts)].map(values)) as [
        Float32Array,
        Float32Array,
        Float32Array
      ]
      expect(relativeError(once, wanted)).toBeLessThan(tolerance)
      expect(relativeError(apart, once)).toBeLessThan(1e-5)
      span.free()
    }
  )

  it('shares a run among sequences, and frees what its programs hold', async () => {
    const { heldBytes } = await device.memory()
    const { model, span, all, length, rows, cache } = await setUp('llama/gqa', format)
    const blocks = new CachedSpan(span.weights)
    const other = await SequenceCache.create(device, model, all, 32)
    const start = await sliceRows(device, rows, 0, 2)
    const two = await concatRows(device, [rows, start])
    const together = await blocks.forward(two, [{ cache, count: length }, { cache: other, count: 2 }], all)
    const alone = await blocks.forward(rows, [{ cache, count: length }], all)
    const shared = await sliceRows(device, together, 0, length)
    expect(relativeError(await values(shared), await values(alone))).toBeLessThan(1e-5)
    span.free()
    device.free(rows, start, two, together, alone, shared)
    cache.free()
    other.free()
    await expect.poll(async () => (await device.memory()).heldBytes).toBe(heldBytes)
  })
})

describe('LocalGenerator', () => {
  it('generates with a quantised head and embedding', async () => {
    const golden = readModelGolden('llama/mqa-tied')
    const generator = await LocalGenerator.load(device, modelOf(golden.config), memorySource(baseWeights(golden)), {
      ...golden.lora,
      dropout: 0,
      rslora: false,
      seed: ''
    }, 'int8')
    const ids: number[] = []
    for await (const id of generator.generate([1, 5, 9], argmax, { maxTokens: 8 })) ids.push(id)
    expect(ids).toHaveLength(8)
    generator.free()
  })
})
