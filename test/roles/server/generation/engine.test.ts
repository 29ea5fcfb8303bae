import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { CachedSpan } from '../../../../src/model/generation/cached-span.ts'
import { ModelWeights } from '../../../../src/model/layers/weights.ts'
import { Boundary } from '../../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { DEFAULT_LIMITS, GenerationEngine } from '../../../../src/roles/server/generation/engine.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'
import { baseWeights, decodeTensor, goldenNames, loraWeights, readModelGolden, relativeError } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const TOLERANCE = 1e-5
/** A budget so small that every prompt is computed in several chunks. */
const SMALL = { ...DEFAULT_LIMITS, maxBatchedTokens: 3, maxPrefillTokens: 2, maxDecodeTokens: 1, quantum: 1 }

async function setUp (name: string, limits = DEFAULT_LIMITS, cacheBytes = 2 ** 24) {
  const golden = readModelGolden(name)
  const model = modelOf(golden.config)
  const weights = new ModelWeights(device, model, { ...golden.lora, dropout: 0, rslora: false, seed: '' })
  const span = { first: 0, end: model.layers }
  await weights.loadBlocks(memorySource(baseWeights(golden)), span)
  await weights.setTrained(loraWeights(golden))
  const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
  const engine = new GenerationEngine({ device, model, blocks: new CachedSpan(weights), boundary, cacheBytes }, limits)
  const starts = golden.ids.map((_, i) => golden.ids.slice(0, i).reduce((sum, ids) => sum + ids.length, 0))
  /** Hidden states of a golden sequence as they enter the first block, or leave the last. */
  const states = (sequence: number, layer: number): Tensor => {
    const { data } = decodeTensor(golden.loraHidden[layer]!)
    const [first, length] = [starts[sequence]!, golden.ids[sequence]!.length]
    return float32([length, model.hiddenSize], (data as Float32Array).slice(first * model.hiddenSize, (first + length) * model.hiddenSize))
  }
  return { golden, model, span, engine, states, free: () => { weights.free() } }
}

describe('GenerationEngine', () => {
  it.each(goldenNames)('computes the prompts of %s in chunks of several clients as it does whole', async (name) => {
    const { golden, model, span, engine, states, free } = await setUp(name, SMALL)
    const sequences = await Promise.all(golden.ids.map(async (ids, i) => await engine.open(`${i}`, `client ${i}`, span, ids.length + 2)))
    const results = await Promise.all(sequences.map(async (one, i) => await one.forward({ tensors: [states(i, 0)], context: undefined })))
    // Where the rotary base grows with the length, the golden's sequences were computed in one batch of the longest.
    if (name === 'llama/rope-dynamic') {
      const whole = await setUp(name)
      for (const [i, ids] of golden.ids.entries()) {
        const alone = await whole.engine.open(`${i}`, 'client', span, ids.length + 2)
        const [expected] = await alone.forward({ tensors: [whole.states(i, 0)], context: undefined })
        expect(relativeError(results[i]![0]!.data as Float32Array, expected!.data as Float32Array)).toBeLessThan(TOLERANCE)
        await alone.close()
      }
      whole.free()
    } else {
      for (const i of golden.ids.keys()) {
        expect(relativeError(results[i]![0]!.data as Float32Array, states(i, model.layers).data as Float32Array)).toBeLessThan(TOLERANCE)
      }
    }
    expect(sequences.map(({ length }) => length)).toEqual(golden.ids.map(({ length }) => length))
    await Promise.all(sequences.map(async (one) => { await one.close() }))
    expect(engine.caches.heldBytes).toBe(0)
    free()
  })

  it('tells how much there is to do, and how fast it went', async () => {
    const { span, engine, states, free } = await setUp('llama/gqa', DEFAULT_LIMITS, 2 ** 20)
    expect(engine.load).toEqual({ queuedTokens: 0, freeCacheBytes: 2 ** 20, prefillTokensPerSecond: 0, decodeTokensPerSecond: 0 })
    const sequence = await engine.open('a', 'client', span, 64)
    expect(engine.load.freeCacheBytes).toBe(2 ** 20 - engine.caches.heldBytes)
    const { shape: [length, hidden], data } = states(0, 0)
    const computing = sequence.forward({ tensors: [states(0, 0)], context: undefined })
    expect(engine.load.queuedTokens).toBe(length)
    await computing
    await sequence.forward({ tensors: [float32([1, hidden!], (data as Float32Array).slice(0, hidden))], context: undefined })
    await sequence.forward({ tensors: [float32([40, hidden!], new Float32Array(40 * hidden!).fill(0.1))], context: undefined })
    const { queuedTokens, prefillTokensPerSecond, decodeTokensPerSecond } = engine.load
    expect(queuedTokens).toBe(0)
    expect(prefillTokensPerSecond).toBeGreaterThan(0)
    expect(decodeTokensPerSecond).toBeGreaterThan(0)
    await sequence.close()
    free()
  })

  it('computes positions again after a rewind', async () => {
    const { model, span, engine, states, free } = await setUp('llama/gqa', SMALL)
    const sequence = await engine.open('a', 'client', span, 32)
    await sequence.forward({ tensors: [states(0, 0)], context: undefined })
    sequence.rewind(0)
    const [again] = await sequence.forward({ tensors: [states(0, 0)], context: undefined })
    expect(relativeError(again!.data as Float32Array, states(0, model.layers).data as Float32Array)).toBeLessThan(TOLERANCE)
    expect(() => { sequence.rewind(sequence.length + 1) }).toThrow(RangeError)
    await sequence.close()
    free()
  })

  it('tries a request that spoils a shared run once more alone, and refuses it without the others', async () => {
    const { model, span, engine, states, free } = await setUp('llama/gqa')
    const [good, bad] = [await engine.open('good', 'a', span, 32), await engine.open('bad', 'b', span, 2)]
    const [computed, refused] = await Promise.allSettled([
      good.forward({ tensors: [states(0, 0)], context: undefined }),
      bad.forward({ tensors: [states(0, 0)], context: undefined })
    ])
    expect(refused).toMatchObject({ status: 'rejected' })
    expect(computed.status).toBe('fulfilled')
    const [result] = (computed as PromiseFulfilledResult<readonly Tensor[]>).value
    expect(relativeError(result!.data as Float32Array, states(0, model.layers).data as Float32Array)).toBeLessThan(TOLERANCE)
    await Promise.all([good.close(), bad.close()])
    free()
  })

  it('gives a cache that idles to another client, and tells the owner at its next request', async () => {
    const probe = await setUp('llama/gqa')
    const one = await probe.engine.open('probe', 'client', probe.span, 32)
    const bytes = probe.engine.caches.heldBytes
    await one.close()
    probe.free()

    const { span, engine, states, free } = await setUp('llama/gqa', DEFAULT_LIMITS, 2 * bytes)
    const idle = await Promise.all(['first', 'second'].map(async (id) => await engine.open(id, 'greedy', span, 32)))
    for (const sequence of idle) await sequence.forward({ tensors: [states(0, 0)], context: undefined })
    const other = await engine.open('third', 'modest', span, 32)
    await expect(other.forward({ tensors: [states(0, 0)], context: undefined })).resolves.toHaveLength(1)
    expect(engine.caches).toMatchObject({ sequences: 2, evictions: 1, heldBytes: 2 * bytes })
    await expect(idle[0]!.forward({ tensors: [states(0, 0)], context: undefined })).rejects.toMatchObject({
      code: 'E_CACHE_EVICTED', retryable: true
    })
    await expect(idle[1]!.forward({ tensors: [states(1, 0)], context: undefined })).resolves.toHaveLength(1)
    await Promise.all([...idle, other].map(async (sequence) => { await sequence.close() }))
    expect(engine.caches.heldBytes).toBe(0)
    free()
  })
})
