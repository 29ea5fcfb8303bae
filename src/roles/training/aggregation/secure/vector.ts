import { elementCount, float32, type Tensor } from '../../../../tensor.ts'
import type { AdapterShape } from '../strategy.ts'

/** Returns how many values tensors of these shapes have together. */
export function valuesOf (shapes: readonly AdapterShape[]): number {
  return shapes.reduce((sum, { shape }) => sum + elementCount(shape), 0)
}

/** Returns a contribution's values as one vector, its tensors one after another. */
export function vectorOf (contribution: ReadonlyMap<string, Tensor>): Float32Array {
  const parts = [...contribution.values()]
  const vector = new Float32Array(parts.reduce((sum, { data }) => sum + data.length, 0))
  let offset = 0
  for (const { data } of parts) {
    vector.set(data as Float32Array, offset)
    offset += data.length
  }
  return vector
}

/** Returns the tensors of such a vector, by name, over the same memory. */
export function contributionOf (shapes: readonly AdapterShape[], vector: Float32Array): Map<string, Tensor> {
  let offset = 0
  return new Map(shapes.map(({ name, shape }) => {
    const size = elementCount(shape)
    offset += size
    return [name, float32(shape, vector.subarray(offset - size, offset))]
  }))
}
