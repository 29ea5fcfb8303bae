import type { Span } from '../../span.ts'
import { int32, tensor, type Tensor } from '../../tensor.ts'
import type { Model } from '../families/family.ts'
import { contextFault, type PromptContext } from '../families/prompts.ts'
import { grownTables } from '../families/rotary-embedding.ts'
import { positionsOf } from '../layers/hidden-states.ts'
import type { ModelWeights } from '../layers/weights.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, DeviceTensor, ProgramCall, OutputRef } from '../runtime/device.ts'
import { cachedBlockProgram, cachedBlockStages, type RunKind } from './cached-programs.ts'
import type { SequenceCache } from './kv-cache.ts'

/** Rows of one sequence in a run: `count` of them, from `cache.length` on. */
export interface SequenceRows {
  readonly cache: SequenceCache
  readonly count: number
  /** Of these rows, in a model that reads prompts in both directions. */
  readonly context?: PromptContext | undefined
}

/**
 * Blocks that generate: each sequence's keys and values stay in its cache, so a run computes new rows only. Prompts, pieces of prompts
 * and single tokens of several sequences, each at its own position, share one run.
 */
export class CachedSpan {
  readonly #weights: ModelWeights

  constructor (weights: ModelWeights) {
    this.#weights = weights
  }

  /**
   * Passes rows [sum of counts, hidden], one sequence after another, through blocks [first, end), appending to the caches; their lengths
   * are the caller's to raise, once all of its blocks have run. The given rows stay the caller's; the result is the caller's.
   */
  async run (hidden: AnyTensor, sequences: readonly SequenceRows[], span: Span): Promise<DeviceTensor> {
    const { first, end } = span
    if (first >= end) throw new RangeError(`there are no blocks [${first}, ${end})`)
    const { output } = await this.#weights.device.runSequence(await this.calls(hidden, sequences, span), { keep: ['output'] })
    return output as DeviceTensor
  }

  /** The same as calls of a chain, the last of which gives `output`. */
  async calls (hidden: AnyTensor | OutputRef, sequences: readonly SequenceRows[], { first, end }: Span): Promise<ProgramCall[]> {
    const { model } = this.#weights
    for (const { cache, count } of sequences) await cache.reserve(cache.length + count)
    const run = runKind(model, sequences)
    const rotations = await this.#weights.rotary.reaching(Math.max(...sequences.map(({ cache, count }) => cache.length + count)))
    const places = { ...rotations, ...placesOf(model, sequences, run) }
    const inPlace = Object.fromEntries(
      sequences.flatMap((_, i) => [[`presentKey.${i}`, `pastKey.${i}`], [`presentValue.${i}`, `pastValue.${i}`]])
    )
    const blocks = await Promise.all(Array.from({ length: end - first }, async (_, i) => {
      const inputs: Record<string, AnyTensor | OutputRef> = {
        ...this.#weights.blockInputs(first + i),
        ...places,
        hidden: i === 0 ? hidden : { output: 'output' }
      }
      for (const [sequence, { cache, count }] of sequences.entries()) {
        const held = cache.block(first + i)
        inputs[`pastKey.${sequence}`] = held.key
        inputs[`pastValue.${sequence}`] = held.value
        const total = cache.length + count - held.first
        inputs[`last.${sequence}`] = int32([1], [total - 1])
        inputs[`total.${sequence}`] = int32([], [total])
      }
      const block = { inputs, inPlace }
      return this.#weights.fixes(this.#weights.blockFormat(first + i))
        ? await this.#stages(first + i, run, block)
        : [await this.#whole(first + i, run, block)]
    }))
    return blocks.flat()
  }

  async #whole (layer: number, run: RunKind, block: Omit<ProgramCall, 'executable'>): Promise<ProgramCall> {
    const executable = await compiled(
      this.#weights.device,
      `block.cached ${keyOf(run)} ${this.#weights.programKey(layer)}`,
      () => cachedBlockProgram(this.#weights, layer, run)
    )
    return { executable, ...block }
  }

  /** A block whose weights are fixed in its programs, of which each block has its own. */
  async #stages (layer: number, run: RunKind, { inputs, ...block }: Omit<ProgramCall, 'executable'>): Promise<ProgramCall[]> {
    const { before, attention, after } = cachedBlockStages(this.#weights, layer, run)
    const weights = this.#weights.blockInputs(layer)
    const [first, second, third] = await Promise.all([
      this.#weights.fixed(`${layer}.before`, before, weights),
      compiled(this.#weights.device, `attention.cached ${keyOf(run)} ${this.#weights.programKey(layer)}`, attention),
      this.#weights.fixed(`${layer}.after`, after, weights)
    ])
    const passed = (...names: readonly string[]): ProgramCall['inputs'] => Object.fromEntries(names.map((name) => [name, { output: name }]))
    return [
      { executable: first, inputs },
      { executable: second, inputs: { ...inputs, ...passed('query', 'key', 'value') }, ...block },
      { executable: third, inputs: { ...inputs, ...passed('attended') } }
    ]
  }
}

function runKind (model: Model, sequences: readonly SequenceRows[]): RunKind {
  for (const rows of sequences) checkContext(model, rows)
  return { sequences: sequences.length, reads: sequences.some(({ cache, context }) => context !== undefined && cache.length === 0) }
}

function keyOf ({ sequences, reads }: RunKind): string {
  return `${sequences}${reads ? ' reads' : ''}`
}

/** Throws RangeError for a context that rows cannot have, or lack. */
function checkContext ({ prompts }: Model, { cache, count, context }: SequenceRows): void {
  if ((prompts === undefined) !== (context === undefined))
    throw new RangeError(`the model has ${prompts === undefined ? 'no contexts' : 'a context for each sequence'}`)
  const fault = context === undefined ? undefined : contextFault(context, cache.length, count)
  if (fault !== undefined) throw new RangeError(fault)
}

/**
 * Where each sequence's rows stand: `positions` of all rows, `counts` of rows, the length of each sequence's context, and the indices of
 * its
 * keys where a context is read.
 */
function placesOf ({ rotary }: Model, sequences: readonly SequenceRows[], { reads }: RunKind): Record<string, Tensor> {
  const places: Record<string, Tensor> = {
    positions: positionsOf(sequences.map(({ cache, count, context }) => ({ from: cache.length, count, context }))),
    counts: tensor('int64', [sequences.length], BigInt64Array.from(sequences, ({ count }) => BigInt(count))),
    ...grownTables(rotary, sequences.map(({ cache, count }) => ({ from: cache.length, count })))
  }
  for (const [i, { cache, count, context }] of sequences.entries()) {
    if (context !== undefined) places[`context.${i}`] = tensor('int64', [1], BigInt64Array.of(BigInt(context.length)))
    if (reads)
      places[`indices.${i}`] = tensor(
        'int64',
        [cache.length + count],
        BigInt64Array.from({ length: cache.length + count }, (_, index) => BigInt(index))
      )
  }
  return places
}
