import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { cacheBytes } from '../../../src/model/generation/cache-size.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { concatRows, sliceRows } from '../../../src/model/layers/hidden-states.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { baseWeights, decodeTensor, goldenNames, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
})
afterAll(async () => {
  await device.close()
})

const TOLERANCE = 1e-5

async function setUp (name: string) {
  const golden = readModelGolden(name)
  const model = modelOf(golden.config)
  const weights = new ModelWeights(device, model, { ...golden.lora, dropout: 0, rslora: false, seed: '' })
  const span = { first: 0, end: model.layers }
  await weights.loadBlocks(memorySource(baseWeights(golden)), span)
  await weights.setTrained(loraWeights(golden))
  const lengths = golden.ids.map((ids) => ids.length)
  const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((sum, length) => sum + length, 0))
  const caches = await Promise.all(lengths.map(async () => await SequenceCache.create(device, model, span, 32)))
  return {
    golden,
    model,
    span,
    lengths,
    blocks: new CachedSpan(weights),
    caches,
    /** Rows [from, to) of a sequence, as they enter the first block or leave the last. */
    rows: async (sequence: number, from: number, to: number, layer = 0) =>
      await sliceRows(device, decodeTensor(golden.loraHidden[layer]!), starts[sequence]! + from, starts[sequence]! + to)
  }
}

const values = async (value: DeviceTensor) => (await device.download(value)).data as Float32Array

describe('CachedSpan', () => {
  it.each(goldenNames.filter((name) => name !== 'llama/rope-dynamic'))(
    'computes the hidden states of %s whether a sequence comes at once, in pieces or row by row',
    async (name) => {
      const { model, span, lengths, blocks, caches, rows } = await setUp(name)
      const length = lengths[0]!
      const expected = await values(await rows(0, 0, length, model.layers))
      for (const cuts of [[length], [2, length], [1, 3, 4, length], Array.from({ length }, (_, i) => i + 1)]) {
        const cache = caches[0]!
        cache.length = 0
        const parts: DeviceTensor[] = []
        for (const end of cuts) {
          const count = end - cache.length
          parts.push(await blocks.forward(await rows(0, cache.length, end), [{ cache, count }], span))
          cache.length += count
        }
        expect(relativeError(await values(await concatRows(device, parts)), expected), cuts.join()).toBeLessThan(TOLERANCE)
      }
    }
  )

  it.each(['llama/gqa', 'llama/heads-of-4', 'glm/heads-of-20'])(
    'shares runs of %s among sequences at positions of their own, prompts beside single rows, and spans in pieces',
    async (name) => {
      const { model, lengths, blocks, caches, rows } = await setUp(name)
      const run = async (parts: ReadonlyArray<{ sequence: number, from: number, to: number }>) => {
        let hidden = await concatRows(
          device,
          await Promise.all(parts.map(async ({ sequence, from, to }) => await rows(sequence, from, to)))
        )
        const sequences = parts.map(({ sequence, from, to }) => ({ cache: caches[sequence]!, count: to - from }))
        for (const [first, end] of [[0, 1], [1, model.layers]] as const) hidden = await blocks.forward(hidden, sequences, { first, end })
        for (const { cache, count } of sequences) cache.length += count
        const expected = await concatRows(
          device,
          await Promise.all(parts.map(async ({ sequence, from, to }) => await rows(sequence, from, to, model.layers)))
        )
        expect(relativeError(await values(hidden), await values(expected))).toBeLessThan(TOLERANCE)
      }
      await run([{ sequence: 0, from: 0, to: 4 }, { sequence: 2, from: 0, to: 1 }])
      await run([{ sequence: 0, from: 4, to: 5 }, { sequence: 1, from: 0, to: 2 }, { sequence: 2, from: 1, to: 4 }])
      await run([{ sequence: 2, from: 4, to: 5 }, { sequence: 0, from: 5, to: lengths[0]! }])
    }
  )

  it('turns a sequence that outgrows its model with each pass as transformers does, whatever shares its runs', async () => {
    const { golden, model, span, lengths, blocks, caches, rows } = await setUp('llama/rope-dynamic')
    const { prompt, hidden } = golden.decoded!
    const expected = decodeTensor(hidden).data as Float32Array
    const pass = async (parts: ReadonlyArray<{ sequence: number, count: number }>): Promise<DeviceTensor> => {
      const entering = await Promise.all(
        parts.map(async ({ sequence, count }) => await rows(sequence, caches[sequence]!.length, caches[sequence]!.length + count))
      )
      const left = await blocks.forward(
        await concatRows(device, entering),
        parts.map(({ sequence, count }) => ({ cache: caches[sequence]!, count })),
        span
      )
      for (const { sequence, count } of parts) caches[sequence]!.length += count
      return left
    }
    const first = await pass([{ sequence: 0, count: prompt }, { sequence: 1, count: lengths[1]! }])
    const left = [await sliceRows(device, first, 0, prompt)]
    while (caches[0]!.length < lengths[0]!) left.push(await pass([{ sequence: 0, count: 1 }]))
    const decoded = await values(await concatRows(device, left))
    expect(relativeError(decoded, expected)).toBeLessThan(TOLERANCE)
    expect(
      relativeError(
        await values(await sliceRows(device, first, prompt, prompt + lengths[1]!)),
        await values(await rows(1, 0, lengths[1]!, model.layers))
      )
    ).toBeLessThan(TOLERANCE)
    // One pass over the whole sequence turns its first rows by other angles: in transformers too, generation is not what reading is.
    expect(relativeError(decoded, await values(await rows(0, 0, lengths[0]!, model.layers)))).toBeGreaterThan(0.01)
  })

  it('forgets what comes after a lowered length', async () => {
    const { span, blocks, caches, rows, model, lengths } = await setUp('llama/plain')
    const cache = caches[0]!
    await blocks.forward(await rows(1, 0, lengths[1]!), [{ cache, count: lengths[1]! }], span)
    cache.length = 0
    const hidden = await blocks.forward(await rows(0, 0, lengths[0]!), [{ cache, count: lengths[0]! }], span)
    expect(relativeError(await values(hidden), await values(await rows(0, 0, lengths[0]!, model.layers)))).toBeLessThan(TOLERANCE)
  })

  it('grows caches with their sequences, keeping what they hold', async () => {
    const { model, span, blocks, rows, lengths } = await setUp('llama/gqa')
    const cache = await SequenceCache.create(device, model, span, 1000)
    const length = lengths[0]!
    await blocks.forward(await rows(0, 0, 4), [{ cache, count: 4 }], span)
    cache.length = 4
    await cache.reserve(257)
    expect(cache.block(0).key.shape[2]).toBe(512)
    const hidden = await blocks.forward(await rows(0, 4, length), [{ cache, count: length - 4 }], span)
    expect(relativeError(await values(hidden), await values(await rows(0, 4, length, model.layers)))).toBeLessThan(TOLERANCE)
    await cache.reserve(1000)
    expect(cache.block(2).value.shape[2]).toBe(1000)
    await expect(cache.reserve(1001)).rejects.toThrow('do not fit')
    const before = (await device.memory()).heldBytes
    cache.free()
    expect(before - (await device.memory()).heldBytes).toBe(cacheBytes(model, span, 1000))
  })

  it('refuses more rows than a cache has room for', async () => {
    const { span, blocks, caches, rows } = await setUp('llama/plain')
    caches[0]!.length = 30
    await expect(blocks.forward(await rows(0, 0, 4), [{ cache: caches[0]!, count: 4 }], span)).rejects.toThrow('do not fit')
  })
})
