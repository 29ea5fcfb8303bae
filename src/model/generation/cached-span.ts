import type { Span } from '../../span.ts'
import { float32, int32, tensor, type Tensor } from '../../tensor.ts'
import type { Model } from '../families/family.ts'
import { contextFault, type PromptContext } from '../families/prompts.ts'
import { grownTables } from '../families/rotary-embedding.ts'
import { positionsOf } from '../layers/hidden-states.ts'
import type { ModelWeights } from '../layers/weights.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, DeviceTensor, ProgramCall, OutputRef } from '../runtime/device.ts'
import { cachedHeadSize, type RunKind } from './cached-attention.ts'
import { cachedBlockProgram, cachedBlockStages } from './cached-programs.ts'
import type { SequenceCache } from './kv-cache.ts'

/** Consecutive tokens of one sequence in a run: `count` of them, from position `cache.length` on. */
export interface SequenceChunk {
  readonly cache: SequenceCache
  readonly count: number
  /** The context of these tokens, in a model that reads prompts in both directions. */
  readonly context?: PromptContext | undefined
  /**
   * The length of the sequence after the pass that this chunk is a part of; `cache.length + count` where it is left out. The rotary angles
   * of a model whose base grows follow from it, so that a pass in chunks computes what the whole pass does.
   */
  readonly passEnd?: number
}

/** Returns the number of sequences that the program of a run has: the next power of two, so that 32 sequences take ten programs. */
export function bucketOf (sequences: number): number {
  return 2 ** Math.ceil(Math.log2(sequences))
}

/**
 * Runs blocks for generation. Each sequence's keys and values stay in its KV cache, so a run computes new tokens only. Prompts, chunks of
 * prompts and single tokens of several sequences, each at its own position, share one run.
 */
export class CachedSpan {
  readonly #weights: ModelWeights
  /** The cache of one position that stands where a program has more sequences than a run. Nothing is written to it. */
  #noCache: Promise<DeviceTensor> | undefined

  constructor (weights: ModelWeights) {
    this.#weights = weights
  }

  /**
   * Takes hidden states [sum of counts, hidden], one chunk after another, through the blocks of a span, and writes keys and values to the
   * caches. Returns hidden states of the same shape, which the caller frees with those given. The caller sets the caches' lengths once all
   * of their blocks have run. Throws RangeError for a chunk that its cache cannot take.
   */
  async forward (hidden: AnyTensor, chunks: readonly SequenceChunk[], span: Span): Promise<DeviceTensor> {
    const { first, end } = span
    if (first >= end) throw new RangeError(`there are no blocks [${first}, ${end})`)
    const { output } = await this.#weights.device.runSequence(await this.forwardCalls(hidden, chunks, span), { keep: ['output'] })
    return output as DeviceTensor
  }

  /** Returns the calls that `forward` runs. The last of them computes `output`. */
  async forwardCalls (
    hidden: AnyTensor | OutputRef,
    chunks: readonly SequenceChunk[],
    { first, end }: Span
  ): Promise<ProgramCall[]> {
    const { model } = this.#weights
    for (const { cache, count } of chunks) await cache.reserve(cache.length + count)
    const run = runKind(model, chunks)
    const rotations = await this.#weights.rotary.reaching(Math.max(...chunks.map(({ cache, count }) => cache.length + count)))
    const places = { ...rotations, ...placesOf(model, chunks, run), ...await this.#absent(chunks.length, run.sequences) }
    const inPlace = Object.fromEntries(
      chunks.flatMap((_, i) => [[`presentKey.${i}`, `pastKey.${i}`], [`presentValue.${i}`, `pastValue.${i}`]])
    )
    const blocks = await Promise.all(Array.from({ length: end - first }, async (_, i) => {
      const inputs: Record<string, AnyTensor | OutputRef> = {
        ...this.#weights.blockInputs(first + i),
        ...places,
        hidden: i === 0 ? hidden : { output: 'output' }
      }
      for (const [sequence, { cache, count }] of chunks.entries()) {
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

  /** Returns the inputs of a program's sequences that a run does not have: a token each, and no position before it. */
  async #absent (present: number, sequences: number): Promise<Record<string, AnyTensor>> {
    if (present === sequences) return {}
    const { device, model } = this.#weights
    const cache = await (this.#noCache ??= device.zeros('float32', [1, model.kvHeads, 1, cachedHeadSize(model)]))
    const [last, total] = [int32([1], [0]), int32([], [1])]
    const inputs: Record<string, AnyTensor> = { absent: float32([sequences - present], new Float32Array(sequences - present)) }
    for (let sequence = present; sequence < sequences; sequence++) {
      inputs[`pastKey.${sequence}`] = cache
      inputs[`pastValue.${sequence}`] = cache
      inputs[`last.${sequence}`] = last
      inputs[`total.${sequence}`] = total
    }
    return inputs
  }

  /** Returns the call of a block whose weights are inputs of its program. */
  async #whole (layer: number, run: RunKind, block: Omit<ProgramCall, 'executable'>): Promise<ProgramCall> {
    const executable = await compiled(
      this.#weights.device,
      `block.cached ${keyOf(run)} ${this.#weights.programKey(layer)}`,
      () => cachedBlockProgram(this.#weights, layer, run)
    )
    return { executable, ...block }
  }

  /** Returns the calls of a block whose weights are fixed in its programs; each block has programs of its own. */
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

function runKind (model: Model, chunks: readonly SequenceChunk[]): RunKind {
  for (const chunk of chunks) checkContext(model, chunk)
  // A sequence of a model with contexts has its context, and no place without one.
  const sequences = model.prompts === undefined ? bucketOf(chunks.length) : chunks.length
  const padded = sequences > chunks.length
  return { sequences, padded, reads: chunks.some(({ cache, context }) => context !== undefined && cache.length === 0) }
}

function keyOf ({ sequences, reads, padded }: RunKind): string {
  return `${sequences}${reads ? ' reads' : ''}${padded ? ' padded' : ''}`
}

/** Throws RangeError for a context that a chunk cannot have, or for one that is missing. */
function checkContext ({ prompts }: Model, { cache, count, context }: SequenceChunk): void {
  if ((prompts === undefined) !== (context === undefined))
    throw new RangeError(`the model has ${prompts === undefined ? 'no contexts' : 'a context for each sequence'}`)
  const fault = context === undefined ? undefined : contextFault(context, cache.length, count)
  if (fault !== undefined) throw new RangeError(fault)
}

/**
 * Returns the inputs that say where the tokens stand: their `positions`, the `counts` of each sequence, the length of each sequence's
 * `context`, and, where a prompt is read in both directions, the `indices` of the positions that each cache holds with its new tokens.
 */
function placesOf ({ rotary }: Model, chunks: readonly SequenceChunk[], { sequences, reads }: RunKind): Record<string, Tensor> {
  const places: Record<string, Tensor> = {
    positions: positionsOf(chunks.map(({ cache, count, context }) => ({ from: cache.length, count, context }))),
    counts: tensor('int64', [sequences], BigInt64Array.from({ length: sequences }, (_, i) => BigInt(chunks[i]?.count ?? 1))),
    ...grownTables(rotary, chunks.map(({ cache, count, passEnd }) => ({ from: cache.length, count, passEnd })))
  }
  for (const [i, { cache, count, context }] of chunks.entries()) {
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
