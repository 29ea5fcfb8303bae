import type { DType } from '../../tensor.ts'
import { GraphError } from './errors.ts'
import { isAnyShape, type Dim, type Graph, type Value } from './graph.ts'
import { emitModel, type Constant, type OnnxModel } from './onnx.ts'
import { section, type Section } from './section.ts'

export interface TensorSpec {
  readonly name: string
  readonly dtype: DType
  /** undefined admits any shape. */
  readonly shape: readonly Dim[] | undefined
}

/** A pure function from named tensors to named tensors. */
export interface Program {
  readonly name: string
  readonly inputs: readonly TensorSpec[]
  readonly outputs: readonly TensorSpec[]
  /**
   * The ONNX file; inputs named in `constants` become initializers, large ones with external data (given to onnxruntime in memory, no 2 GB
   * limit).
   */
  toOnnx: (constants?: Readonly<Record<string, Constant>>) => OnnxModel
}

/** Returns the program that computes the graph's outputs: only the nodes and inputs they need. */
export function program (name: string, graph: Graph): Program {
  return programOf(name, section(graph, graph.outputs))
}

export function programOf (name: string, part: Section): Program {
  const inputs = [...part.inputs].map(([value, input]) => specOf(input, value))
  return {
    name,
    inputs,
    outputs: [...part.outputs].map(([output, value]) => specOf(output, value)),
    toOnnx (constants = {}) {
      for (const [input, { dtype }] of Object.entries(constants)) {
        const spec = inputs.find((spec) => spec.name === input)
        if (spec?.dtype !== dtype)
          throw new GraphError(
            `program ${name} has no ${dtype} input ${input}`,
            `its inputs are ${inputs.map((spec) => `${spec.name} (${spec.dtype})`).join(', ')}`
          )
      }
      return emitModel(name, part, constants)
    }
  }
}

function specOf (name: string, { dtype, shape }: Value): TensorSpec {
  return { name, dtype, shape: isAnyShape(shape) ? undefined : shape }
}
