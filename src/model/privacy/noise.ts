import type { Value } from '../graph/graph.ts'
import { add, cast, concat, cos, log, mul, sin, slice, sqrt } from '../graph/operators/index.ts'

/** Words that `gaussian` needs for a row of this many values: it makes them in pairs. */
export function wordsPerRow (hidden: number): number {
  return hidden + hidden % 2
}

/**
 * Standard normal values [rows, hidden] from uniform uint32 words [rows, wordsPerRow(hidden)] by the Box-Muller transform. With
 * 32-bit words no value exceeds sqrt(2 ln 2^33) = 6.8, which a normal one does once in 10^11.
 */
export function gaussian (words: Value, hidden: number): Value {
  const half = wordsPerRow(hidden) / 2
  const radius = sqrt(mul(log(uniform(slice(words, 1, 0, half))), -2))
  const angle = mul(uniform(slice(words, 1, half)), 2 * Math.PI)
  const pairs = concat([mul(radius, cos(angle)), mul(radius, sin(angle))], 1)
  return hidden % 2 === 0 ? pairs : slice(pairs, 1, 0, hidden)
}

/** Computes (word + 1/2) / 2^32: in (0, 1], so that its logarithm is finite. */
function uniform (words: Value): Value {
  return mul(add(cast(words, 'float32'), 0.5), 2 ** -32)
}
