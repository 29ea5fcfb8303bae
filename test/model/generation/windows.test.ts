import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf, type Model } from '../../../src/model/families/index.ts'
import { cacheBytes } from '../../../src/model/generation/cache-size.ts'
import { CachedClientModel } from '../../../src/model/generation/cached-client-model.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { LocalGenerator } from '../../../src/model/generation/local-generator.ts'
import { argmax } from '../../../src/model/generation/sampling.ts'
import { concatRows, sliceRows } from '../../../src/model/layers/hidden-states.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { baseWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const CAPACITY = 1500
/** What a block with a window of 4 keeps: that and a run. */
const WINDOWED = 4 + 512
const TOLERANCE = 1e-5

/** Every block of the first has a window of 4; of the second, the first block sees all keys. */
const windowed = ['mistral/window', 'qwen2/window-tied'] as const

async function setUp (name: typeof windowed[number], rowCount = CAPACITY) {
  const golden = readModelGolden(name)
  const model = modelOf({ ...golden.config, max_position_embeddings: CAPACITY })
  const span = { first: 0, end: model.layers }
  const trained = await TrainableSpan.load(device, model, memorySource(baseWeights(golden)), span, 'weights')
  const entering = numbered(model, rowCount)
  const { hidden: leaving } = await trained.forward({ hidden: entering, lengths: [rowCount] }, { keepResiduals: false })
  const blocks = new CachedSpan(trained.weights)
  return {
    model,
    span,
    blocks,
    cache: async () => await SequenceCache.create(device, model, span, CAPACITY),
    entering: async (from: number, to: number) => await sliceRows(device, entering, from, to),
    leaving: async (from: number, to: number) => await values(await sliceRows(device, leaving, from, to)),
    /** What leaves the last block when these rows come next, in one run. */
    pass: async (cache: SequenceCache, count: number) => {
      const left = await values(
        await blocks.forward(await sliceRows(device, entering, cache.length, cache.length + count), [{ cache, count }], span)
      )
      cache.length += count
      return left
    }
  }
}

/** Rows that differ from each other. */
function numbered ({ hiddenSize }: Model, rows: number): Tensor {
  return float32([rows, hiddenSize], Float32Array.from({ length: rows * hiddenSize }, (_, i) => Math.sin(i * i % 1009)))
}

const values = async (value: DeviceTensor) => (await device.download(value)).data as Float32Array

describe.each(windowed)('the caches of %s', (name) => {
  it('compute what a full pass does, long after they have forgotten the first keys', async () => {
    const { model, span, cache: open, pass, leaving } = await setUp(name)
    const cache = await open()
    for (const count of [512, 1, 1, 1, 1, 1, 1, 300, 512, 1, 2, 100]) {
      const left = await pass(cache, count)
      expect(relativeError(left, await leaving(cache.length - count, cache.length)), `${count} rows to ${cache.length}`).toBeLessThan(
        TOLERANCE
      )
    }
    const rooms = Array.from({ length: model.layers }, (_, layer) => cache.block(layer).key.shape[2])
    expect(rooms).toEqual(model.windows.map((window) => window === null ? CAPACITY : WINDOWED))
    const before = (await device.memory()).heldBytes
    cache.free()
    expect(before - (await device.memory()).heldBytes).toBe(cacheBytes(model, span, CAPACITY))
  })

  it('share runs with sequences that stand elsewhere, and repeat a run', async () => {
    const { span, blocks, cache: open, pass, entering, leaving } = await setUp(name, 700)
    const [long, short] = [await open(), await open()]
    await pass(long, 512)
    await pass(long, 4)
    await pass(short, 3)
    const together = await concatRows(device, [await entering(516, 518), await entering(3, 4)])
    for (const attempt of ['first', 'second']) {
      const left = await values(await blocks.forward(together, [{ cache: long, count: 2 }, { cache: short, count: 1 }], span))
      expect(relativeError(left, Float32Array.of(...await leaving(516, 518), ...await leaving(3, 4))), attempt).toBeLessThan(TOLERANCE)
    }
    long.free()
    short.free()
  })

  it('begin again, and refuse rows that see what is forgotten, or more at once than they have room for', async () => {
    const { cache: open, pass, leaving } = await setUp(name, 700)
    const cache = await open()
    await pass(cache, 512)
    await pass(cache, 100)
    expect([0, 10, 511, 512, 612, 613].map((position) => cache.holds(position))).toEqual([true, false, false, true, true, false])
    cache.length = 511
    await expect(pass(cache, 1)).rejects.toThrow('forgotten')
    cache.length = 0
    await expect(pass(cache, 513)).rejects.toThrow('512 rows')
    expect(relativeError(await pass(cache, 7), await leaving(0, 7))).toBeLessThan(TOLERANCE)
    cache.free()
  })
})

it('a prompt longer than a run is read in several', async () => {
  const golden = readModelGolden('mistral/window')
  const generator = await LocalGenerator.load(
    device,
    modelOf({ ...golden.config, max_position_embeddings: CAPACITY }),
    memorySource(baseWeights(golden))
  )
  const prompt = Array.from({ length: 1100 }, (_, i) => (7 * i + i * i) % 61)
  const ids: number[] = []
  for await (const id of generator.generate(prompt, argmax, { maxTokens: 5 })) ids.push(id)

  const ends = await CachedClientModel.create(generator.weights, { inputBlocks: 0, outputBlocks: 2 }, CAPACITY)
  const all = [...prompt, ...ids]
  const after: number[] = []
  while (ends.length < all.length - 1) {
    const piece = all.slice(ends.length, ends.length < prompt.length ? ends.length + 100 : ends.length + 1)
    const logits = await ends.logits(await ends.embed(piece), piece.length)
    if (ends.length >= prompt.length) after.push(argmax(logits))
  }
  expect(ids).toEqual(after)
  ends.free()
  generator.free()
})

it('caches of a model without windows keep all keys, and take any number of rows', async () => {
  const model = modelOf({ ...readModelGolden('llama/plain').config, max_position_embeddings: CAPACITY })
  expect(cacheBytes(model, { first: 0, end: 2 }, CAPACITY)).toBe(2 * 2 * CAPACITY * model.kvHeads * model.headSize * 4)
  const cache = await SequenceCache.create(device, model, { first: 0, end: 2 }, CAPACITY)
  await cache.reserve(CAPACITY)
  expect(cache.block(0).key.shape[2]).toBe(CAPACITY)
  cache.free()
})
