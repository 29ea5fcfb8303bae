import type { Attention } from '../../families/builder.ts'
import type { Model } from '../../families/family.ts'
import type { Dim, Graph, Value } from '../../graph/graph.ts'
import {
  add, concat, exp, gatherRows, greaterOrEqual, less, logSumExp, matmul, mul, range, reduceSum, reshape, sub, transpose, where
} from '../../graph/operators/index.ts'
import { rotate } from '../../layers/attention.ts'

/**
 * Builds the attention of rows that stand at positions of one known sequence in place of the token there: each row attends to the tokens
 * of the sequence before its position, and to itself. The first rows are those of the sequence itself; the graph's input `prefix` int32
 * [prefix] has their numbers, 0 to the length of the sequence. The input `places` int64 [rows] has the position of each row. So the
 * candidates for all positions of a sequence share its keys and values, as if each were one decode step after a cache. With a window, a
 * row sees only that many keys, the last of them its own.
 */
export function sharedPrefixAttention (graph: Graph, model: Model, window: number | null): Attention {
  const { heads, kvHeads, headSize } = model
  const group = heads / kvHeads
  const prefix = graph.input('prefix', 'int32', ['prefix'])
  const mask = prefixMask(graph, window)
  const perHead = (x: Value, rows: Dim): Value => transpose(reshape(x, [rows, kvHeads, headSize]), [1, 0, 2])
  return (q, k, v) => {
    const queries = transpose(reshape(rotate(graph, model, q, heads), ['rows', kvHeads, group, headSize]), [1, 0, 2, 3])
    const turned = rotate(graph, model, k, kvHeads)
    const own = (x: Value): Value => reshape(perHead(x, 'rows'), [kvHeads, 'rows', 1, headSize])
    const shared = (x: Value): Value => perHead(gatherRows(x, prefix), 'prefix')
    const flat = reshape(queries, [kvHeads, 'rows*group', headSize])
    const scores = add(
      mul(reshape(matmul(flat, shared(turned), { transposeB: true }), [kvHeads, 'rows', group, 'prefix']), headSize ** -0.5),
      mask
    )
    const ownScore = mul(reduceSum(mul(queries, own(turned)), [3], true), headSize ** -0.5)
    const total = logSumExp(concat([scores, ownScore], 3, 'prefix+1'), [3], true)
    const mixed = matmul(reshape(exp(sub(scores, total)), [kvHeads, 'rows*group', 'prefix']), shared(v))
    const attended = add(
      reshape(mixed, [kvHeads, 'rows', group, headSize]),
      mul(exp(sub(ownScore, total)), own(v))
    )
    return reshape(transpose(attended, [1, 0, 2, 3]), ['rows', heads * headSize])
  }
}

/** Makes the mask [rows, 1, prefix]: 0 for keys before the row's position and within its window, -infinity for the others. */
function prefixMask (graph: Graph, window: number | null): Value {
  const places = reshape(graph.input('places', 'int64', ['rows']), ['rows', 1, 1])
  const keys = reshape(range(graph, 'prefix'), [1, 1, 'prefix'])
  const [seen, unseen] = [graph.scalar(0), graph.scalar(-Infinity)]
  const before = where(less(keys, places), seen, unseen)
  return window === null ? before : where(greaterOrEqual(sub(places, keys), graph.scalar(window, 'int64')), unseen, before)
}
