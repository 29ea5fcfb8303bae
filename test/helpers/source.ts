import type { WeightSource } from '../../src/model/layers/weights.ts'
import type { Tensor } from '../../src/tensor.ts'

/** Weights from memory, each reading a copy. */
export function memorySource (weights: ReadonlyMap<string, Tensor>): WeightSource {
  return {
    read: async (name) => {
      const value = weights.get(name)
      if (value === undefined) throw new Error(`there is no weight ${name}`)
      return await Promise.resolve({ ...value, data: value.data.slice() })
    }
  }
}
