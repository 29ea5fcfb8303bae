import { BlockBuilder, type Attention } from '../families/builder.ts'
import { kindOf, UnsupportedModelError, type BlockKind, type Model, type Span } from '../families/family.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { concat, groupQueryAttention, reshape, split } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, DeviceTensor, Link, Passed } from '../runtime/device.ts'
import { int32, tensor, type Tensor } from '../../tensor.ts'
import { rotate } from '../training/attention.ts'
import { adapterInputs } from '../training/block-programs.ts'
import { weightProduct } from '../training/weight-format.ts'
import type { ModelWeights } from '../training/weights.ts'
import type { SequenceCache } from './cache.ts'

/** onnxruntime's attention over a cache takes heads of a multiple of this many elements. */
const HEAD_SIZE_MULTIPLE = 8

/** Rows of one sequence in a run: `count` of them, from `cache.length` on. */
export interface SequenceRows {
  readonly cache: SequenceCache
  readonly count: number
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
    const { device, model, key } = this.#weights
    for (const { cache, count } of sequences) await cache.reserve(cache.length + count)
    const places = placesOf(sequences)
    const inPlace = Object.fromEntries(sequences.flatMap((_, i) => [[`presentKey.${i}`, `pastKey.${i}`], [`presentValue.${i}`, `pastValue.${i}`]]))
    return await Promise.all(Array.from({ length: end - first }, async (_, i) => {
      const kind = kindOf(model, first + i)
      const executable = await compiled(device, `block.cached ${sequences.length} ${JSON.stringify(kind)} ${key}`, () => cachedBlockProgram(this.#weights, kind, sequences.length))
      const inputs: Record<string, AnyTensor | Passed> = { ...places, ...this.#weights.blockInputs(first + i), hidden: i === 0 ? hidden : { passed: 'output' } }
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
 * One block over the rows of this many sequences, the same for all blocks of a kind: programs of whole spans would save a few messages to the
 * device, and cost seconds to compile for each span and number of sequences that meet.
 */
function cachedBlockProgram ({ model, trainable, format }: ModelWeights, { window }: BlockKind, sequences: number): Program {
  const graph = new Graph()
  const hidden = graph.input('hidden', 'float32', ['rows', model.hiddenSize])
  const adapter = trainable === 'weights' ? () => undefined : adapterInputs(graph, model, trainable, false)
  const builder = new BlockBuilder({ graph, model, attention: cachedAttention(graph, model, window, sequences), product: (x, weight) => weightProduct(x, weight, format), adapter })
  graph.output('output', model.block(builder, hidden))
  return program(`cached-block-${sequences}`, graph)
}

/** Attention of each sequence's rows over its own cache and themselves. */
function cachedAttention (graph: Graph, model: Model, window: number | null, sequences: number): Attention {
  const { heads, kvHeads, headSize } = model
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
      return reshape(output, [rows[i] as string, heads * headSize])
    })
    return concat(attended, 0, 'rows')
  }
}

/** Where each sequence's rows stand: `positions` of all rows, `counts` of rows, and the index of each sequence's last key and its length. */
function placesOf (sequences: readonly SequenceRows[]): Record<string, Tensor> {
  const positions = sequences.flatMap(({ cache, count }) => Array.from({ length: count }, (_, i) => BigInt(cache.length + i)))
  const places: Record<string, Tensor> = {
    positions: tensor('int64', [1, positions.length], BigInt64Array.from(positions)),
    counts: tensor('int64', [sequences.length], BigInt64Array.from(sequences, ({ count }) => BigInt(count)))
  }
  for (const [i, { cache, count }] of sequences.entries()) {
    places[`last.${i}`] = int32([1], [cache.length + count - 1])
    places[`total.${i}`] = int32([], [cache.length + count])
  }
  return places
}
