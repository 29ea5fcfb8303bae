import type { Model } from '../../src/model/families/index.ts'
import type { WeightSource } from '../../src/model/layers/weights.ts'
import { elementCount, float32 } from '../../src/tensor.ts'

/** Values between -0.03 and 0.03 that repeat after a while: neither time nor memory depends on them. */
const PATTERN = Float32Array.from({ length: 100_003 }, (_, i) => (i * 7919 % 100_003 / 100_003 - 0.5) * 0.06)

/** Returns weights of a model that are made as they are read: ones for norms, small numbers for matrices. */
export function randomSource (model: Model): WeightSource {
  return {
    read: async (name) => {
      const shape = shapeOf(model, name)
      return await Promise.resolve(
        float32(
          shape,
          Float32Array.from({ length: elementCount(shape) }, (_, i) => shape.length === 1 ? 1 : PATTERN[i % PATTERN.length] as number)
        )
      )
    }
  }
}

function shapeOf (model: Model, name: string): readonly number[] {
  const linear = model.linears.find((module) => name.endsWith(`.${module.name}.weight`))
  if (linear !== undefined) return [linear.outputSize, linear.inputSize]
  return name === model.embedding ? [model.vocabularySize, model.hiddenSize] : [model.hiddenSize]
}
