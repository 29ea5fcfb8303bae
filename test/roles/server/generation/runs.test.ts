import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { modelOf, type Model } from '../../../../src/model/families/index.ts'
import { CachedSpan } from '../../../../src/model/generation/cached-span.ts'
import { ModelWeights } from '../../../../src/model/layers/weights.ts'
import { Boundary } from '../../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { BatchRunner } from '../../../../src/roles/server/generation/batch-runner.ts'
import { GenerationEngine, type EngineSequence } from '../../../../src/roles/server/generation/engine.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'
import { readChatGLMGolden } from '../../../helpers/chatglm.ts'
import { baseWeights, readModelGolden, relativeError, type ModelGolden } from '../../../helpers/golden.ts'
import { original } from '../../../helpers/original.ts'
import { memorySource } from '../../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })
afterEach(() => { vi.restoreAllMocks() })

const POSITIONS = 4608
const TOLERANCE = 1e-5
interface SetUp {
  readonly model: Model
  readonly blocks: CachedSpan
  readonly engine: GenerationEngine
  readonly span: { readonly first: number, readonly end: number }
}

interface Golden extends Pick<ModelGolden, 'seed' | 'shapes'> {
  readonly config: Readonly<Record<string, unknown>>
}

async function setUp (golden: Golden): Promise<SetUp> {
  const model = modelOf({ ...golden.config, max_position_embeddings: POSITIONS, max_sequence_length: POSITIONS, seq_length: POSITIONS })
  const span = { first: 0, end: model.layers }
  const weights = new ModelWeights(device, model, 'weights')
  await weights.loadBlocks(memorySource(baseWeights(golden)), span)
  const blocks = new CachedSpan(weights)
  const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
  return { model, blocks, span, engine: new GenerationEngine({ device, model, blocks, boundary, cacheBytes: 2 ** 30 }) }
}

/** Hidden states that differ from each other. */
function numbered ({ hiddenSize }: Model, tokens: number, seed: number): Tensor {
  return float32([tokens, hiddenSize], Float32Array.from({ length: tokens * hiddenSize }, (_, i) => Math.sin((i * i + seed) % 1009)))
}

/** Watches how many tokens of how many sequences each run has; each takes so many milliseconds longer. */
function watchRuns (moreMs = 0): Array<readonly number[]> {
  const runs: Array<readonly number[]> = []
  const run = original(BatchRunner, 'run')
  vi.spyOn(BatchRunner.prototype, 'run').mockImplementation(async function (this: BatchRunner, chunks) {
    runs.push(chunks.map(({ count }) => count))
    await delay(moreMs)
    return await run.call(this, chunks)
  })
  return runs
}

const tokensOf = (run: readonly number[]): number => run.reduce((sum, count) => sum + count, 0)
const valuesOf = (tensors: readonly Tensor[]): Float32Array => tensors[0]!.data as Float32Array

/** Computes each prompt, then two single tokens, of sequences that all ask at once, or one after another. */
async function generate (
  { model, engine, span }: SetUp,
  prompts: ReadonlyArray<{ readonly tokens: number, readonly context?: { readonly length: number, readonly maskPosition: number } }>,
  together: boolean
): Promise<Float32Array[][]> {
  const one = async ({ tokens, context }: typeof prompts[number], i: number): Promise<Float32Array[]> => {
    const sequence = await engine.open(`${together}-${i}`, `client-${i}`, span, tokens + 2)
    const outputs: Float32Array[] = []
    for (const [step, count] of [tokens, 1, 1].entries())
      outputs.push(valuesOf(await sequence.forward({ tensors: [numbered(model, count, 100 * i + step)], context })))
    await sequence.close()
    return outputs
  }
  if (together) return await Promise.all(prompts.map(one))
  const results: Float32Array[][] = []
  for (const [i, prompt] of prompts.entries()) results.push(await one(prompt, i))
  return results
}

describe('GenerationEngine', () => {
  it('computes a context that is read in both directions in one chunk, and what follows it in others', async () => {
    const subject = await setUp(readChatGLMGolden('130528'))
    const prompts = [
      { tokens: 700, context: { length: 600, maskPosition: 599 } },
      { tokens: 300, context: { length: 40, maskPosition: 40 } }
    ]
    const runs = watchRuns()
    const results = await generate(subject, prompts, true)
    for (const run of runs) if (tokensOf(run) > 512) expect(run).toEqual([601])
    const alone = await generate(subject, prompts, false)
    for (const [i, outputs] of results.entries()) {
      for (const [step, output] of outputs.entries())
        expect(relativeError(output, alone[i]![step]!), `${i}, ${step}`).toBeLessThan(TOLERANCE)
    }
  })

  it('lets no decoding sequence wait for more than the run under way while a prompt of 4,096 tokens is read, within the budget', async () => {
    const golden = readModelGolden('llama/mqa-tied')
    const subject = await setUp({ ...golden, config: { ...golden.config, num_hidden_layers: 1 } })
    const { model, engine, span } = subject
    const decoding = await Promise.all(
      Array.from({ length: 8 }, async (_, i) => await engine.open(`decode-${i}`, `client-${i}`, span, POSITIONS))
    )
    const sequence = await engine.open('prompt', 'other', span, 4096)
    const runs = watchRuns()
    let prefilled = false
    const stepping = decoding.map(async (one, i) => {
      while (!prefilled) {
        const before = runs.length
        await one.forward({ tensors: [numbered(model, 1, i)], context: undefined })
        // Its own run, and the one after it, which begins before this line.
        expect(runs.length - before).toBeLessThanOrEqual(2)
      }
    })
    const prompt = await sequence.forward({ tensors: [numbered(model, 4096, 0)], context: undefined })
    prefilled = true
    await Promise.all(stepping)
    expect(prompt[0]!.shape).toEqual([4096, model.hiddenSize])
    expect(Math.max(...runs.map(tokensOf))).toBeLessThanOrEqual(512)
    expect(runs.flat().filter((count) => count === 1).length).toBeGreaterThanOrEqual(8 * 4096 / 128)
    for (const one of [...decoding, sequence]) await one.close()
  })

  it('has the steps of clients who come back a little apart in the same runs', async () => {
    const { model, engine, span } = await setUp(readModelGolden('llama/plain'))
    const runs = watchRuns(600)
    const steps = 6
    await Promise.all([0, 10, 20, 30].map(async (awayMs, i) => {
      const sequence = await engine.open(`sequence-${i}`, `client-${i}`, span, steps)
      for (let step = 0; step < steps; step++) {
        await sequence.forward({ tensors: [numbered(model, 1, i)], context: undefined })
        await delay(awayMs)
      }
      await sequence.close()
    }))
    // Nobody is expected until he came back once. Were nobody waited for, each step of the others would be in a run after the first's.
    expect(runs.filter(({ length }) => length === 4).length).toBeGreaterThanOrEqual(steps - 3)
  })

  it('compiles a program for a number of sequences, and none for the length of a chunk', async () => {
    const subject = await setUp(readModelGolden('llama/plain'))
    await generate(subject, [{ tokens: 600 }], true)
    const compile = vi.spyOn(device, 'compile')
    for (const tokens of [601, 17, 333, 1030]) await generate(subject, [{ tokens }], true)
    expect(compile).not.toHaveBeenCalled()
  })

  it('compiles a dozen programs at most for any number of sequences up to 64, which get what they get alone', async () => {
    const golden = readModelGolden('llama/plain')
    const subject = await setUp({ ...golden, config: { ...golden.config, num_hidden_layers: 1 } })
    const { model, engine, span } = subject
    const compile = vi.spyOn(device, 'compile')
    const sequences = await Promise.all(
      Array.from({ length: 64 }, async (_, i) => await engine.open(`many-${i}`, `client-${i}`, span, 64))
    )
    const runs = watchRuns()
    /** Computes one to three tokens of a sequence, which depend on how many others there are. */
    const outputOf = async (sequence: EngineSequence, i: number, together: number): Promise<Float32Array> => valuesOf(
      await sequence.forward({ tensors: [numbered(model, 1 + (i + together) % 3, 100 * i + sequence.length)], context: undefined })
    )
    const computed = vi.spyOn(CachedSpan.prototype, 'forwardCalls')
    const outputs = new Map<number, Float32Array[]>()
    for (const together of [1, 3, 64, 7, 17, 33, 2, 11, 64, 5]) {
      await Promise.all(sequences.slice(0, together).map(async (sequence, i) => {
        outputs.set(i, [...outputs.get(i) ?? [], await outputOf(sequence, i, together)])
      }))
    }
    expect(new Set(runs.map(({ length }) => length)).size).toBeGreaterThan(6)
    expect(compile.mock.calls.length).toBeLessThanOrEqual(12)
    expect(computed).toHaveBeenCalledTimes(runs.length) // none was tried again
    // Each of them once more, with nobody beside it.
    for (const i of [0, 2, 16, 63]) {
      const alone = await engine.open(`alone-${i}`, 'client', span, 64)
      let [step, of] = [0, outputs.get(i)!]
      for (const together of [1, 3, 64, 7, 17, 33, 2, 11, 64, 5]) {
        if (i >= together) continue
        expect(relativeError(of[step++]!, await outputOf(alone, i, together))).toBeLessThan(TOLERANCE)
      }
      expect(step).toBe(of.length)
      await alone.close()
    }
    for (const sequence of sequences) await sequence.close()
  })

  it('gives up the request of a sequence that is closed or whose client is gone', async () => {
    const { model, engine, span } = await setUp(readModelGolden('llama/plain'))
    const [closed, gone] = [await engine.open('closed', 'a', span, 2000), await engine.open('gone', 'b', span, 2000)]
    const left = new AbortController()
    const requests = [
      closed.forward({ tensors: [numbered(model, 2000, 0)], context: undefined }),
      gone.forward({ tensors: [numbered(model, 2000, 1)], context: undefined }, left.signal)
    ]
    const settled = Promise.allSettled(requests)
    left.abort(new Error('the stream ended'))
    await closed.close()
    expect(await settled).toMatchObject([{ reason: { code: 'E_SESSION_CLOSED' } }, { reason: { message: 'the stream ended' } }])
    await gone.close()
    expect(engine.caches.heldBytes).toBe(0)
  })
})
