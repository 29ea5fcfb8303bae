import { float32 } from '../../tensor.ts'
import type { Attention } from '../families/builder.ts'
import type { Model } from '../families/family.ts'
import type { Graph, Value } from '../graph/graph.ts'
import { add, concat, expand, gather, groupQueryAttention, range, reshape, size, split, sub, transpose } from '../graph/operators/index.ts'
import { causalMask, contextMask, maskedAttention, rotate } from '../layers/attention.ts'

/** onnxruntime's attention over a cache takes heads of a multiple of this many elements. */
const HEAD_SIZE_MULTIPLE = 8

/** Elements of a head in a cache: those of the model's heads, and zeros after them, which change no score and no mean. */
export function cachedHeadSize ({ headSize }: Model): number {
  return Math.ceil(headSize / HEAD_SIZE_MULTIPLE) * HEAD_SIZE_MULTIPLE
}

/**
 * Attention of the rows of so many sequences, each over its own cache and its own rows. It is causal; where `reads`, sequences have
 * contexts
 * besides, which all of their rows see: their attention is computed beside that over the cache, which then only fills it.
 */
export function cachedAttention (
  graph: Graph,
  model: Model,
  { window, sequences, reads }: { readonly window: number | null, readonly sequences: number, readonly reads: boolean }
): Attention {
  const { heads, kvHeads, headSize } = model
  const cachedSize = cachedHeadSize(model)
  const rows = Array.from({ length: sequences }, (_, i) => sequences === 1 ? 'rows' : `rows.${i}`)
  const pieces = (x: Value, heads: number): Value[] => {
    const resized = resizeHeads(x, heads, headSize, cachedSize)
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
    return resizeHeads(concat(attended, 0, 'rows'), heads, cachedSize, headSize)
  }
}

/** x [rows, heads * from] → [rows, heads * to]: each head with zeros after it, or without what comes after `to` elements. */
function resizeHeads (x: Value, heads: number, from: number, to: number): Value {
  if (from === to) return x
  const rows = x.shape[0]!
  const apart = reshape(x, [rows, heads, from])
  const zeros = (): Value => expand(x.graph.constant(float32([1, 1, to - from], new Float32Array(to - from))), [rows, heads, to - from])
  const resized = from < to ? concat([apart, zeros()], 2) : split(apart, [to, from - to], 2)[0]!
  return reshape(resized, [rows, heads * to])
}

/**
 * Attention of a sequence's turned rows, q [1, rows, heads * size], over what its cache holds with them, [1, kvHeads, capacity, size] each,
 * of
 * which the graph's input `indices` [length] names the first. Each row sees the sequence's context, of `context` [1] rows, and what comes
 * before it.
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
