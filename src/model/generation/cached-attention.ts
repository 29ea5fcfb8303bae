import { float32 } from '../../tensor.ts'
import type { Attention } from '../families/builder.ts'
import type { Model } from '../families/family.ts'
import type { Graph, Value } from '../graph/graph.ts'
import { add, concat, expand, gather, groupQueryAttention, range, reshape, size, split, sub, transpose } from '../graph/operators/index.ts'
import { causalMask, contextMask, maskedAttention, rotate } from '../layers/attention.ts'

/**
 * What the programs of a run depend on. The number of tokens of each sequence, and so the way in which prompts are cut into chunks, makes
 * no further program.
 */
export interface RunKind {
  /** Sequences of the program: those of the run, or more. */
  readonly sequences: number
  /** Whether one of them is a prompt that is read in both directions. */
  readonly reads: boolean
  /** Whether there are more than the run has. */
  readonly padded: boolean
}

/** The size of a head in onnxruntime's attention over a KV cache is a multiple of this number. */
const HEAD_SIZE_MULTIPLE = 8

/** Returns the size of a head in a KV cache: the model's head size, padded with zeros, which change neither scores nor results. */
export function cachedHeadSize ({ headSize }: Model): number {
  return Math.ceil(headSize / HEAD_SIZE_MULTIPLE) * HEAD_SIZE_MULTIPLE
}

/**
 * Builds the attention of one block over the tokens of several sequences, each with a KV cache of its own. Every token attends to the
 * positions before it in its own sequence, within the block's window. With `reads`, prompts are read in both directions: each sequence has
 * a context that all of its tokens attend to; the attention is then computed from the present keys and values, and onnxruntime's attention
 * only fills the caches. With `padded`, the last of the sequences are absent, as many as the graph's input `absent` [absent] has elements:
 * each has a token of zeros, whose result is dropped.
 */
export function cachedAttention (
  graph: Graph,
  model: Model,
  { window, sequences, reads, padded }: RunKind & { readonly window: number | null }
): Attention {
  const { heads, kvHeads, headSize } = model
  const cachedSize = cachedHeadSize(model)
  const rows = Array.from({ length: sequences }, (_, i) => sequences === 1 ? 'rows' : `rows.${i}`)
  const pieces = (x: Value, heads: number): Value[] => {
    const present = resizeHeads(x, heads, headSize, cachedSize)
    const resized = padded ? concat([present, absentRows(graph, heads * cachedSize)], 0) : present
    const parts = sequences === 1 ? [resized] : split(resized, rows, 0, graph.input('counts', 'int64', [sequences]))
    return parts.map((part, i) => reshape(part, [1, rows[i]!, heads * cachedSize]))
  }
  return (q, k, v) => {
    const [queries, keys, values] = [
      pieces(rotate(graph, model, q, heads), heads),
      pieces(rotate(graph, model, k, kvHeads), kvHeads),
      pieces(v, kvHeads)
    ]
    const attended = queries.map((query, i) => {
      const past = (name: string): Value => graph.input(`${name}.${i}`, 'float32', [1, kvHeads, `capacity.${i}`, cachedSize])
      const { output, presentKey, presentValue } = groupQueryAttention({
        query,
        key: keys[i]!,
        value: values[i]!,
        pastKey: past('pastKey'),
        pastValue: past('pastValue'),
        seqlensK: graph.input(`last.${i}`, 'int32', [1]),
        totalLength: graph.input(`total.${i}`, 'int32', [])
      }, { heads, kvHeads, scale: headSize ** -0.5, ...(window === null ? {} : { localWindow: window }) })
      graph.output(`presentKey.${i}`, presentKey)
      graph.output(`presentValue.${i}`, presentValue)
      return reshape(reads ? contextAttention(model, i, query, presentKey, presentValue) : output, [rows[i]!, heads * cachedSize])
    })
    const all = padded ? split(concat(attended, 0, 'rows+absent'), ['rows', 'absent'], 0)[0]! : concat(attended, 0, 'rows')
    return resizeHeads(all, heads, cachedSize, headSize)
  }
}

/** Builds the rows of absent sequences: zeros [absent, width]. */
function absentRows (graph: Graph, width: number): Value {
  graph.input('absent', 'float32', ['absent'])
  return expand(graph.constant(float32([1, width], new Float32Array(width))), ['absent', width])
}

/** Pads each head of x [rows, heads * from] with zeros, or cuts it, to `to` elements. Returns [rows, heads * to]. */
function resizeHeads (x: Value, heads: number, from: number, to: number): Value {
  if (from === to) return x
  const rows = x.shape[0]!
  const apart = reshape(x, [rows, heads, from])
  const zeros = (): Value => expand(x.graph.constant(float32([1, 1, to - from], new Float32Array(to - from))), [rows, heads, to - from])
  const resized = from < to ? concat([apart, zeros()], 2) : split(apart, [to, from - to], 2)[0]!
  return reshape(resized, [rows, heads * to])
}

/**
 * Builds the attention of one sequence whose prompt is read in both directions. The rotated queries q [1, rows, heads * size] attend to
 * presentKey and presentValue [1, kvHeads, capacity, size]. The graph's input `indices` [length] names the positions that the cache holds
 * with these rows; its input `context` [1] is the number of positions in the context, which every row attends to besides those before it.
 */
function contextAttention (model: Model, sequence: number, q: Value, presentKey: Value, presentValue: Value): Value {
  const { graph } = q
  const { heads, kvHeads } = model
  const [rows, headSize] = [q.shape[1]!, presentKey.shape[3]!]
  const queries = transpose(reshape(q, [1, rows, kvHeads, heads / kvHeads, headSize]), [0, 2, 3, 1, 4])
  const length = `length.${sequence}`
  const keyIndices = graph.input(`indices.${sequence}`, 'int64', [length])
  const queryIndices = add(range(graph, rows), sub(size(graph, length), size(graph, rows)))
  const mask = contextMask(keyIndices, graph.input(`context.${sequence}`, 'int64', [1]), causalMask(queryIndices, keyIndices, null))
  return maskedAttention(
    model,
    reshape(queries, [1, kvHeads, `group*${rows}`, headSize]),
    gather(presentKey, keyIndices, 2),
    gather(presentValue, keyIndices, 2),
    mask
  )
}
