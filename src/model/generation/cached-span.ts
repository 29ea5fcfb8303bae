import { BlockBuilder, type Attention } from '../families/builder.ts'
import { contextFault, type Context } from '../families/context.ts'
import { kindOf, UnsupportedModelError, type Model, type Span } from '../families/family.ts'
import { grownTables } from '../families/rotary.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { concat, groupQueryAttention, reshape, split, transpose } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, DeviceTensor, Link, Passed } from '../runtime/device.ts'
import { int32, tensor, type Tensor } from '../../tensor.ts'
import { causalMask, contextMask, maskedAttention, rotate } from '../training/attention.ts'
import { adapterInputs } from '../training/block-programs.ts'
import { positionsOf } from '../training/rows.ts'
import { weightProduct } from '../training/weight-format.ts'
import type { ModelWeights } from '../training/weights.ts'
import type { SequenceCache } from './cache.ts'

/** onnxruntime's attention over a cache takes heads of a multiple of this many elements. */
const HEAD_SIZE_MULTIPLE = 8

/** Rows of one sequence in a run: `count` of them, from `cache.length` on. */
export interface SequenceRows {
  readonly cache: SequenceCache
  readonly count: number
  /** Of these rows, in a model that reads prompts in both directions. */
  readonly context?: Context | undefined
}

/**
 * Blocks that generate: each sequence's keys and values stay in its cache, so a run computes new rows only. Prompts, pieces of prompts
 * and single tokens of several sequences, each at its own position, share one run.
 */
export class CachedSpan {
  readonly #weights: ModelWeights

  /** Throws UnsupportedModelError for heads that cached attention cannot compute. */
  constructor (weights: ModelWeights) {
    const { headSize } = weights.model
    if (headSize % HEAD_SIZE_MULTIPLE !== 0) throw new UnsupportedModelError(`generation needs heads of a multiple of ${HEAD_SIZE_MULTIPLE} elements, not ${headSize}`)
    this.#weights = weights
  }

  /**
   * Passes rows [sum of counts, hidden], one sequence after another, through blocks [first, end), appending to the caches; their lengths
   * are the caller's to raise, once all of its blocks have run. The given rows stay the caller's; the result is the caller's.
   */
  async run (hidden: AnyTensor, sequences: readonly SequenceRows[], span: Span): Promise<DeviceTensor> {
    const { first, end } = span
    if (first >= end) throw new RangeError(`there are no blocks [${first}, ${end})`)
    const { output } = await this.#weights.device.chain(await this.links(hidden, sequences, span), { keep: ['output'] })
    return output as DeviceTensor
  }

  /** The same as links of a chain, the last of which gives `output`. */
  async links (hidden: AnyTensor | Passed, sequences: readonly SequenceRows[], { first, end }: Span): Promise<Link[]> {
    const { device, model } = this.#weights
    for (const { cache, count } of sequences) await cache.reserve(cache.length + count)
    const prompts = sequences.map(rows => startsWithContext(model, rows))
    const places = placesOf(model, sequences)
    const inPlace = Object.fromEntries(sequences.flatMap((_, i) => [[`presentKey.${i}`, `pastKey.${i}`], [`presentValue.${i}`, `pastValue.${i}`]]))
    return await Promise.all(Array.from({ length: end - first }, async (_, i) => {
      const executable = await compiled(device, `block.cached ${prompts.map(Number).join('')} ${this.#weights.programKey(first + i)}`, () => cachedBlockProgram(this.#weights, first + i, prompts))
      const inputs: Record<string, AnyTensor | Passed> = { ...this.#weights.blockInputs(first + i), ...places, hidden: i === 0 ? hidden : { passed: 'output' } }
      for (const [sequence, { cache }] of sequences.entries()) {
        const { key, value } = cache.block(first + i)
        inputs[`pastKey.${sequence}`] = key
        inputs[`pastValue.${sequence}`] = value
      }
      return { executable, inputs, inPlace }
    }))
  }
}

/**
 * One block over the rows of so many sequences, each a prompt that is read in both directions or not, the same for all blocks of a kind:
 * programs of whole spans would save a few messages to the device, and cost seconds to compile for each span and number of sequences that meet.
 */
function cachedBlockProgram (weights: ModelWeights, layer: number, prompts: readonly boolean[]): Program {
  const { model } = weights
  const format = weights.blockFormat(layer)
  const graph = new Graph()
  const hidden = graph.input('hidden', 'float32', ['rows', model.hiddenSize])
  const adapter = adapterInputs(graph, model, weights.training(layer).adapters, false)
  const attention = cachedAttention(graph, model, kindOf(model, layer).window, prompts)
  const builder = new BlockBuilder({ graph, model, attention, product: (x, weight) => weightProduct(x, weight, format), adapter })
  graph.output('output', model.block(builder, hidden))
  return program(`cached-block-${prompts.length}`, graph)
}

/** Whether these rows begin with a context that all of them see. Throws RangeError for a context that they cannot have. */
function startsWithContext ({ prompts }: Model, { cache, count, context }: SequenceRows): boolean {
  if ((prompts === undefined) !== (context === undefined)) throw new RangeError(`the model has ${prompts === undefined ? 'no contexts' : 'a context for each sequence'}`)
  const fault = context === undefined ? undefined : contextFault(context, cache.length, count)
  if (fault !== undefined) throw new RangeError(fault)
  return context !== undefined && cache.length === 0
}

/**
 * Attention of each sequence's rows over its own cache and themselves. It is causal: rows that see their whole context are computed
 * beside it, and the cached attention of their run only fills the cache.
 */
function cachedAttention (graph: Graph, model: Model, window: number | null, prompts: readonly boolean[]): Attention {
  const { heads, kvHeads, headSize } = model
  const sequences = prompts.length
  const rows = Array.from({ length: sequences }, (_, i) => sequences === 1 ? 'rows' : `rows.${i}`)
  const pieces = (x: Value): Value[] => {
    const parts = sequences === 1 ? [x] : split(x, rows, 0, graph.input('counts', 'int64', [sequences]))
    return parts.map((part, i) => reshape(part, [1, rows[i] as string, x.shape[1] as number]))
  }
  return (q, k, v) => {
    const [queries, keys, values] = [rotate(graph, model, q, heads), rotate(graph, model, k, kvHeads), v].map(pieces) as [Value[], Value[], Value[]]
    const attended = queries.map((query, i) => {
      const past = (name: string): Value => graph.input(`${name}.${i}`, 'float32', [1, kvHeads, `capacity.${i}`, headSize])
      const { output, presentKey, presentValue } = groupQueryAttention({
        query,
        key: keys[i] as Value,
        value: values[i] as Value,
        pastKey: past('pastKey'),
        pastValue: past('pastValue'),
        seqlensK: graph.input(`last.${i}`, 'int32', [1]),
        totalLength: graph.input(`total.${i}`, 'int32', [])
      }, { heads, kvHeads, ...(window === null ? {} : { localWindow: window }) })
      graph.output(`presentKey.${i}`, presentKey)
      graph.output(`presentValue.${i}`, presentValue)
      const seen = prompts[i] === true ? contextAttention(graph, model, [query, keys[i] as Value, values[i] as Value], window, graph.input(`context.${i}`, 'int64', [1])) : output
      return reshape(seen, [rows[i] as string, heads * headSize])
    })
    return concat(attended, 0, 'rows')
  }
}

/** Attention of a whole sequence of turned rows, q [1, rows, heads * headSize] and k and v likewise, that all see its context of `length` [1] rows. */
function contextAttention (graph: Graph, model: Model, [q, k, v]: readonly [Value, Value, Value], window: number | null, length: Value): Value {
  const { heads, kvHeads, headSize } = model
  const rows = q.shape[1]!
  const queries = transpose(reshape(q, [1, rows, kvHeads, heads / kvHeads, headSize]), [0, 2, 3, 1, 4])
  const apart = (x: Value): Value => transpose(reshape(x, [1, rows, kvHeads, headSize]), [0, 2, 1, 3])
  const mask = contextMask(graph, rows, length, causalMask(graph, rows, window))
  return maskedAttention(model, reshape(queries, [1, kvHeads, `group*${rows}`, headSize]), apart(k), apart(v), mask)
}

/**
 * Where each sequence's rows stand: `positions` of all rows, `counts` of rows, the index of each sequence's last key and its length, and
 * the length of its context.
 */
function placesOf ({ rotary }: Model, sequences: readonly SequenceRows[]): Record<string, Tensor> {
  const places: Record<string, Tensor> = {
    positions: positionsOf(sequences.map(({ cache, count, context }) => ({ from: cache.length, count, context }))),
    counts: tensor('int64', [sequences.length], BigInt64Array.from(sequences, ({ count }) => BigInt(count))),
    ...grownTables(rotary, sequences.map(({ cache, count }) => ({ from: cache.length, count })))
  }
  for (const [i, { cache, count, context }] of sequences.entries()) {
    if (context !== undefined) places[`context.${i}`] = tensor('int64', [1], BigInt64Array.of(BigInt(context.length)))
    places[`last.${i}`] = int32([1], [cache.length + count - 1])
    places[`total.${i}`] = int32([], [cache.length + count])
  }
  return places
}
