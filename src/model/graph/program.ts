import type { DType } from '../../tensor.ts'
import { GraphError } from './errors.ts'
import { isAnyShape, type Dim, type Graph, type Node, type Value } from './graph.ts'
import { emitModel, type Constant, type OnnxModel } from './onnx.ts'

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

/** The part of a graph that a program consists of. */
export interface Section {
  readonly graph: Graph
  readonly nodes: readonly Node[]
  readonly inputs: ReadonlyMap<Value, string>
  readonly outputs: ReadonlyMap<string, Value>
}

/** The program that computes the graph's outputs: only the nodes and inputs they need. */
export function program (name: string, graph: Graph): Program {
  return programOf(name, section(graph, graph.outputs))
}

/** What computes `outputs`; values in `given` come in under the names there instead of being computed. */
export function section (graph: Graph, outputs: ReadonlyMap<string, Value>, given: ReadonlyMap<Value, string> = new Map()): Section {
  const needed = new Set(outputs.values())
  const nodes = graph.nodes.toReversed().filter((node) => {
    const runs = node.outputs.some((output) => needed.has(output) && !given.has(output))
    if (runs) for (const input of node.inputs) needed.add(input)
    return runs
  }).reverse()

  const inputs = new Map<Value, string>()
  for (const [name, value] of graph.inputs) if (needed.has(value)) inputs.set(value, name)
  for (const [value, name] of given) if (needed.has(value)) inputs.set(value, name)
  for (const dim of nodes.flatMap((node) => node.reads ?? [])) {
    const holder = graph.holderOf(dim)!
    if (![...inputs.keys()].some((input) => input.shape.includes(dim))) inputs.set(holder, graph.inputName(holder)!)
  }
  return { graph, nodes, inputs, outputs }
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
