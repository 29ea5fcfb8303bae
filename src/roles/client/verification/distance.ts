import { fromFloat16 } from '../../../model/float16.ts'
import type { Tensor } from '../../../tensor.ts'

/**
 * Returns how far two computations of the same hidden states are apart, for each token: the L2 norm of the difference over the greater of
 * the two norms. It is 0 for the same values, 1 where one of them is all zeros, 2 where the sign is flipped, and never more. Both are in
 * the encoding of the wire: [tokens, hidden], for int8 followed by the scales [tokens]. Throws RangeError where their shapes differ.
 */
export function tokenDistances (a: readonly Tensor[], b: readonly Tensor[]): number[] {
  const [tokens = 0, hidden = 0] = a[0]?.shape ?? []
  if (b[0]?.shape[0] !== tokens || b[0].shape[1] !== hidden) throw new RangeError('hidden states of different shapes have no distance')
  const [left, right] = [decoded(a), decoded(b)]
  return Array.from({ length: tokens }, (_, token) => {
    let [difference, leftSquares, rightSquares] = [0, 0, 0]
    for (let i = token * hidden; i < (token + 1) * hidden; i++) {
      const [x, y] = [left[i]!, right[i]!]
      difference += (x - y) ** 2
      leftSquares += x ** 2
      rightSquares += y ** 2
    }
    return difference === 0 ? 0 : Math.sqrt(difference / Math.max(leftSquares, rightSquares))
  })
}

/** Returns the values of hidden states, without their encoding. */
function decoded ([values, scales]: readonly Tensor[]): ArrayLike<number> {
  const { dtype, data, shape: [, hidden = 1] } = values!
  if (dtype === 'float16') return fromFloat16(data as Uint16Array)
  if (scales === undefined) return data as Float32Array
  const factors = scales.data as Float32Array
  return Float32Array.from(data as Int8Array, (value, i) => value * factors[Math.floor(i / hidden)]!)
}
