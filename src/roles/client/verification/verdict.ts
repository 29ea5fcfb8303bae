import type { Encoding } from '../../../encoding.ts'
import type { Tensor } from '../../../tensor.ts'
import type { Arithmetic } from '../../middle/arithmetic.ts'
import { tokenDistances } from './distance.ts'
import { isWithin, limitsOf, medianOf } from './limits.ts'

/** What one server computed of some states. */
export interface Computation {
  readonly server: string
  readonly arithmetic: Arithmetic
  /** Hidden states [tokens, hidden] in the encoding of the wire. */
  readonly outputs: readonly Tensor[]
}

/** What two servers computed of the same states, compared. */
export interface Comparison {
  readonly agrees: boolean
  /** The middle one of the tokens' distances, and the greatest. */
  readonly median: number
  readonly greatest: number
}

/** Compares what two servers computed of the same states. */
export function compare (a: Computation, b: Computation, wire: Encoding): Comparison {
  const distances = tokenDistances(a.outputs, b.outputs)
  return {
    agrees: isWithin(distances, limitsOf(a.arithmetic, b.arithmetic, wire)),
    median: medianOf(distances),
    greatest: distances.reduce((most, distance) => Math.max(most, distance), 0)
  }
}

/**
 * Decides which of two servers that do not agree is wrong: the one that a third does not agree with either, where that one agrees with the
 * other. Undefined where the third agrees with both or with neither.
 */
export function wrongOf (a: Computation, b: Computation, third: Computation, wire: Encoding): Computation | undefined {
  const [withA, withB] = [compare(a, third, wire).agrees, compare(b, third, wire).agrees]
  if (withA === withB) return undefined
  return withA ? b : a
}
