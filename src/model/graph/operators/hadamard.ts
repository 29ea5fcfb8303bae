import { tensor, type Tensor } from '../../../tensor.ts'
import type { Value } from '../graph.ts'
import { reshape } from './layout.ts'
import { matmul } from './matmul.ts'

/** Elements that are turned together, at most. An outlier is spread over as many; the products take as long for each element. */
const MAX_RUN = 64

/**
 * Turns each run of elements of x [rows, in] by an orthogonal matrix whose elements all have one magnitude: what one element has of a row's
 * length is spread over its run. The product of two operands that are both turned is as before. QuaRot (https://arxiv.org/abs/2404.00456)
 * does so before it rounds activations.
 */
export function hadamard (x: Value): Value {
  const [rows, width] = x.shape
  const size = runOf(Number(width))
  if (size === 1) return x
  return reshape(matmul(reshape(x, ['runs', size]), x.graph.constant(hadamardMatrix(size))), [rows!, width!])
}

/** Returns the greatest power of two that divides a width, and is no more than the limit. */
function runOf (width: number): number {
  let size = 1
  while (size < MAX_RUN && width % (2 * size) === 0) size *= 2
  return size
}

/** Returns Sylvester's Hadamard matrix [size, size], scaled to be orthogonal; `size` is a power of two. */
function hadamardMatrix (size: number): Tensor {
  const element = (at: number): number => (hasOddBits(Math.floor(at / size) & at % size) ? -1 : 1) / Math.sqrt(size)
  return tensor('float32', [size, size], Float32Array.from({ length: size * size }, (_, at) => element(at)))
}

function hasOddBits (value: number): boolean {
  let odd = false
  for (let left = value; left > 0; left &= left - 1) odd = !odd
  return odd
}
