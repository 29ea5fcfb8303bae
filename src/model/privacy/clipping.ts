import type { Graph, Value } from '../graph/graph.ts'
import { add, cast, div, greater, maximum, mul, reduceMean, reduceSum, sqrt, sub, where, zerosLike } from '../graph/operators/index.ts'

/** Rows of norm 0 are divided by this. */
const LEAST_NORM = 1e-30

/**
 * Declares the inputs `rows` [rows, hidden] and `clip` []. Returns the rows scaled down to an L2 norm of at most the clip, and the share of
 * them that were longer [].
 */
export function clippedRows (graph: Graph, hidden: number): Record<'clipped' | 'fraction', Value> {
  const { rows, longer, scale } = clipping(graph, hidden)
  return { clipped: mul(rows, scale), fraction: reduceMean(cast(longer, 'float32')) }
}

/**
 * Declares the inputs of `clippedRows`. Takes a gradient [rows, hidden] of the clipped rows back to the rows: for a row h of norm n above
 * the clip C, with u = h / n, the gradient g becomes (C / n) (g - u (u · g)); for the others it stays g.
 */
export function gradientThroughClip (graph: Graph, hidden: number, gradient: Value): Value {
  const { rows, norms, longer, scale } = clipping(graph, hidden)
  const direction = div(rows, norms)
  const radial = mul(direction, reduceSum(mul(direction, gradient), [1], true))
  return mul(sub(gradient, mul(radial, cast(longer, 'float32'))), scale)
}

/** Finds the rows that are longer than the clip, and what each row is multiplied by [rows, 1]. */
function clipping (graph: Graph, hidden: number): Record<'rows' | 'norms' | 'longer' | 'scale', Value> {
  const rows = graph.input('rows', 'float32', ['rows', hidden])
  const most = graph.input('clip', 'float32', [])
  const norms = maximum(sqrt(reduceSum(mul(rows, rows), [1], true)), LEAST_NORM)
  const longer = greater(norms, most)
  return { rows, norms, longer, scale: where(longer, div(most, norms), add(zerosLike(norms), 1)) }
}
