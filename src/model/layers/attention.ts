import type { Attention } from '../families/builder.ts'
import type { Model } from '../families/family.ts'
import type { Dim, Graph, Value } from '../graph/graph.ts'
import {
  add,
  greaterOrEqual,
  less,
  matmul,
  mul,
  range,
  reshape,
  rotaryEmbedding,
  softmax,
  sub,
  takeRows,
  transpose,
  where
} from '../graph/operators/index.ts'

/** Applies the rotary embedding to q or k [rows, heads * headSize], by the graph's inputs `positions` [rows, parts], `cos` and `sin`. */
export function rotate (graph: Graph, model: Model, x: Value, heads: number): Value {
  const { parts = 1 } = model.rotary
  const positions = graph.input('positions', 'int64', ['rows', parts])
  if (parts === 1) return rotateRows(graph, model, x, positions, heads)
  const [rows, width] = [x.shape[0]!, x.shape[1]!]
  const partSize = model.headSize / parts
  // The first parts of all heads become rows, and then the second parts: each part has positions of its own.
  const apart = reshape(transpose(reshape(x, [rows, heads, parts, partSize]), [0, 2, 1, 3]), [`${rows}*parts`, heads * partSize])
  const turned = rotateRows(graph, model, apart, reshape(positions, [`${rows}*parts`, 1]), heads)
  return reshape(transpose(reshape(turned, [rows, parts, heads, partSize]), [0, 2, 1, 3]), [rows, width])
}

/** Applies the rotary embedding to x [rows, heads * size], by positions [rows, 1]. */
function rotateRows (graph: Graph, model: Model, x: Value, positions: Value, heads: number): Value {
  const pairs = model.rotary.frequencies.length
  const [rows, width] = [x.shape[0]!, Number(x.shape[1])]
  const [cos, sin] = ['cos', 'sin'].map((name) => graph.input(name, 'float32', ['positions', pairs]))
  const { size, interleaved } = model.rotary
  // Each row is a sequence of its own: the operator refuses sequences longer than the tables, which packed rows may be.
  const turned = rotaryEmbedding(reshape(x, [rows, 1, width]), positions, cos!, sin!, {
    heads,
    interleaved,
    ...(size === width / heads ? {} : { rotaryDim: size })
  })
  return reshape(turned, [rows, width])
}

/**
 * Builds causal attention that can be differentiated. The graph's inputs `slots` [batch, seq] and `places` [rows] say how packed rows are
 * padded, at the end of each sequence, to [batch, seq]; no row sees a later one, so that none sees padding. Query heads that share a
 * key/value head are stacked along the sequence, so that keys and values need not be repeated. With a window, a query sees only that many
 * keys, the last of them its own. In a model that reads prompts in both directions, the input `contexts` [batch] holds, for each sequence,
 * the number of keys that all of its queries see.
 */
export function paddedAttention (graph: Graph, model: Model, window: number | null): Attention {
  const { heads, kvHeads, headSize } = model
  const group = heads / kvHeads
  const places = graph.input('places', 'int32', ['rows'])
  const slots = reshape(graph.input('slots', 'int32', ['batch', 'seq']), ['slots'])
  const indices = range(graph, 'seq')
  const causal = causalMask(indices, indices, window)
  const mask = model.prompts === undefined ? causal : contextMask(indices, graph.input('contexts', 'int64', ['batch']), causal)

  const pad = (x: Value, shape: readonly number[], order: readonly number[]): Value =>
    transpose(reshape(takeRows(x, slots, places, { gapsInInverse: false }), ['batch', 'seq', ...shape]), order)

  return (q, k, v) => {
    const queries = graph.mark(
      reshape(pad(rotate(graph, model, q, heads), [kvHeads, group, headSize], [0, 2, 3, 1, 4]), ['batch', kvHeads, 'group*seq', headSize])
    )
    const keys = graph.mark(pad(rotate(graph, model, k, kvHeads), [kvHeads, headSize], [0, 2, 1, 3]))
    const values = graph.mark(pad(v, [kvHeads, headSize], [0, 2, 1, 3]))

    const mixed = maskedAttention(model, queries, keys, values, mask)
    return graph.mark(takeRows(reshape(mixed, ['slots', heads * headSize]), places, slots, { gapsInIndices: false }))
  }
}

/**
 * Computes attention of q [batch, kvHeads, group * queries, size] over k and v [batch, kvHeads, keys, size], and returns [batch, queries,
 * kvHeads, group, size]. `mask` [..., queries, keys] is added to the scores [batch, kvHeads, group, queries, keys]. `size` may exceed the
 * model's head size where the rest of a head is zeros.
 */
export function maskedAttention ({ heads, kvHeads, headSize }: Model, q: Value, k: Value, v: Value, mask: Value): Value {
  const [batch, , keys, size] = k.shape as [Dim, Dim, Dim, Dim]
  const queries = mask.shape.at(-2)!
  const group = heads / kvHeads
  const scores = reshape(mul(matmul(q, k, { transposeB: true }), headSize ** -0.5), [batch, kvHeads, group, queries, keys])
  const mixed = matmul(reshape(softmax(add(scores, mask)), [batch, kvHeads, q.shape[2]!, keys]), v)
  return transpose(reshape(mixed, [batch, kvHeads, group, queries, size]), [0, 3, 1, 2, 4])
}

/**
 * Makes the mask [queries, keys] of queries and keys at these indices of one sequence: 0 where a query sees a key, and -infinity where the
 * key comes after the query or before its window.
 */
export function causalMask (queries: Value, keys: Value, window: number | null): Value {
  const { graph } = queries
  const [query, key] = [reshape(queries, [queries.shape[0]!, 1]), reshape(keys, [1, keys.shape[0]!])]
  const [seen, unseen] = [graph.scalar(0), graph.scalar(-Infinity)]
  const causal = where(greaterOrEqual(query, key), seen, unseen)
  return window === null ? causal : where(greaterOrEqual(sub(query, key), graph.scalar(window, 'int64')), unseen, causal)
}

/** Makes the mask [batch, 1, 1, queries, keys]: 0 for keys in their sequence's context, of `lengths` [batch] keys; else as `causal`. */
export function contextMask (keys: Value, lengths: Value, causal: Value): Value {
  const { graph } = keys
  return where(
    less(reshape(keys, [1, 1, 1, 1, keys.shape[0]!]), reshape(lengths, [lengths.shape[0]!, 1, 1, 1, 1])),
    graph.scalar(0),
    causal
  )
}
