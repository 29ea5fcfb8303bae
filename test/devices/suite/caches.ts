import { expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { CachedSpan, type SequenceChunk } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { concatRows, sliceRows } from '../../../src/model/layers/hidden-states.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import { baseWeights, decodeTensor, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import type { Subject } from '../suite.ts'
import { cachedGoldens } from './goldens.ts'

/** Of a golden's first two sequences: rows that come together in one run. Prompts, pieces and single rows, at positions of their own. */
const RUNS = [[{ sequence: 0, count: 3 }], [{ sequence: 1, count: 1 }, { sequence: 0, count: 1 }], [{ sequence: 0, count: 1 }, {
  sequence: 1,
  count: 1
}]]

export function caches ({ device, tolerance }: Subject): void {
  it.each(cachedGoldens)('%s has the same hidden states piece by piece, sequences together, as all at once', async (name) => {
    const golden = readModelGolden(name)
    const model = modelOf(golden.config)
    const span = { first: 0, end: model.layers }
    const weights = new ModelWeights(device(), model, { ...golden.lora, dropout: 0, rslora: false, seed: '' })
    await weights.loadBlocks(memorySource(baseWeights(golden)), span)
    await weights.setTrained(loraWeights(golden))
    const starts = [0, golden.ids[0]!.length]
    const sequences = await Promise.all(starts.map(async () => await SequenceCache.create(device(), model, span, 32)))
    const blocks = new CachedSpan(weights)

    for (const run of RUNS) {
      const rowsAt = async (layer: number) => await concatRows(device(), await Promise.all(run.map(async ({ sequence, count }) => {
        const from = starts[sequence]! + sequences[sequence]!.length
        return await sliceRows(device(), decodeTensor(golden.loraHidden[layer]!), from, from + count)
      })))
      const rows: SequenceChunk[] = run.map(({ sequence, count }) => ({ cache: sequences[sequence]!, count }))
      const hidden = await blocks.forward(await rowsAt(0), rows, span)
      const [actual, expected] = [await device().download(hidden), await device().download(await rowsAt(model.layers))]
      expect(relativeError(actual.data as Float32Array, expected.data as Float32Array)).toBeLessThan(tolerance.hidden)
      for (const { cache, count } of rows) cache.length += count
    }
    for (const cache of sequences) cache.free()
    weights.free()
  })

  it('forgets what comes after a lowered length, and keeps the rest as caches grow', async () => {
    const golden = readModelGolden('llama/gqa')
    const model = modelOf(golden.config)
    const span = { first: 0, end: model.layers }
    const weights = new ModelWeights(device(), model, { ...golden.lora, dropout: 0, rslora: false, seed: '' })
    await weights.loadBlocks(memorySource(baseWeights(golden)), span)
    await weights.setTrained(loraWeights(golden))
    const blocks = new CachedSpan(weights)
    const cache = await SequenceCache.create(device(), model, span, 300)
    const run = async (from: number, to: number) => {
      cache.length = from
      const hidden = await blocks.forward(await sliceRows(device(), decodeTensor(golden.loraHidden[0]!), from, to), [{
        cache,
        count: to - from
      }], span)
      return (await device().download(hidden)).data as Float32Array
    }
    const whole = await run(0, 4)
    await cache.reserve(300)
    expect(relativeError(await run(2, 4), whole.subarray(whole.length / 2))).toBeLessThan(tolerance.hidden)
    cache.free()
    weights.free()
  })
}
