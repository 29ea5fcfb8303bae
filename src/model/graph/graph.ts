import { createHash } from 'node:crypto'
import { bytesOf, tensor, type DType, type Tensor, type TensorData } from '../../tensor.ts'
import { toFloat16 } from '../float16.ts'
import type { Attributes } from './attributes.ts'
import { GraphError } from './errors.ts'

/** The size of one axis. A string is a symbolic size; equal names mean equal sizes. */
export type Dim = number | string

/**
 * The shape of a value whose rank the program does not know: one symbolic axis that stands for all of them. Elementwise operators and
 * whole-tensor reductions take it.
 */
export const ANY_SHAPE: readonly Dim[] = ['...']

export function isAnyShape (shape: readonly Dim[]): boolean {
  return shape.includes(ANY_SHAPE[0]!)
}

export interface ValueType {
  readonly dtype: DType
  readonly shape: readonly Dim[]
}

/** One tensor in a graph: an input, a constant or a node's output. */
export interface Value extends ValueType {
  readonly id: number
  readonly graph: Graph
}

/** The gradient of each output or input, undefined where none flows. */
export type Gradients = ReadonlyArray<Value | undefined>

/** What operators write ONNX nodes with. */
export interface Emitter {
  /** Appends a node; attributes that are undefined are left out. */
  readonly node: (opType: string, inputs: readonly string[], outputs: readonly string[], attributes?: Attributes, domain?: string) => void
  /** The ONNX name of a value. */
  readonly name: (value: Value) => string
  /** Whether anything in the program reads this value. */
  readonly uses: (value: Value) => boolean
  /** A new name for an intermediate result within one operator. */
  readonly fresh: () => string
  /** The name of a constant. */
  readonly constant: (value: Tensor) => string
  /** A program input that has this symbolic size, and on which axis. */
  readonly holderOf: (dim: string) => { readonly name: string, readonly axis: number }
}

/** One application of an operator. Nodes are pure: the same operator on the same values is the same node. */
export interface Node {
  readonly name: string
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly emit: (emitter: Emitter) => void
  /** Vector-Jacobian product: gradients of the outputs → gradients of the inputs. Absent where the operator has no derivative. */
  readonly vjp?: (gradients: Gradients) => Gradients
  /** The symbolic size that this node reads from whichever program input has it. */
  readonly reads?: string
}

/** How a node is made; `key` tells it from other nodes with the same name and inputs. */
export interface NodeSpec {
  readonly name: string
  readonly inputs: readonly Value[]
  readonly key: string
  readonly types: readonly ValueType[]
  readonly build: (outputs: readonly Value[]) => Pick<Node, 'emit' | 'vjp' | 'reads'>
}

/** A directed acyclic graph of tensor operations. Only ever grows; nodes stand in an order in which they can run. */
export class Graph {
  readonly nodes: Node[] = []
  readonly inputs = new Map<string, Value>()
  readonly outputs = new Map<string, Value>()
  readonly #constants = new Map<number, Tensor>()
  readonly #interned = new Map<string, readonly Value[]>()
  readonly #producers = new Map<number, Node>()
  readonly #inputNames = new Map<number, string>()
  readonly #dimHolders = new Map<string, Value>()
  readonly #marked = new Set<number>()
  #values = 0

  /**
   * Declares an input. An undefined shape admits tensors of any shape. Throws GraphError when the name is taken by an input of another
   * type.
   */
  input (name: string, dtype: DType, shape: readonly Dim[] | undefined): Value {
    const wanted = shape ?? ANY_SHAPE
    const known = this.inputs.get(name)
    if (known !== undefined) {
      if (known.dtype === dtype && String(known.shape) === String(wanted)) return known
      throw new GraphError(
        `input ${name} already stands for a ${known.dtype} tensor of shape [${known.shape.join(', ')}]`,
        'use another name'
      )
    }
    const value = this.#value({ dtype, shape: wanted })
    this.inputs.set(name, value)
    this.#inputNames.set(value.id, name)
    return value
  }

  /** Names a value as an output. Throws GraphError when the name already stands for another value. */
  output (name: string, value: Value): void {
    const known = this.outputs.get(name)
    if (known !== undefined && known !== value) throw new GraphError(`output ${name} already stands for another value`, 'use another name')
    this.outputs.set(name, value)
  }

  /** A small constant. Equal constants are one value. */
  constant (value: Tensor): Value {
    const digest = createHash('sha256').update(bytesOf(value)).digest('hex')
    const [constant] = this.#intern(`constant ${value.dtype} [${value.shape.join()}] ${digest}`, () => [this.#value(value)])
    this.#constants.set(constant!.id, value)
    return constant!
  }

  /** Returns a scalar constant of shape []. */
  scalar (value: number, dtype: DType = 'float32'): Value {
    return this.constant(tensor(dtype, [], scalarData(value, dtype)))
  }

  /** Marks a value as worth saving between a forward and a backward pass; returns it. */
  mark (value: Value): Value {
    this.#marked.add(value.id)
    return value
  }

  isMarked (value: Value): boolean {
    return this.#marked.has(value.id)
  }

  /** Adds a node, or returns the outputs of the equal one that is already there. */
  add (spec: NodeSpec): readonly Value[] {
    const stranger = spec.inputs.find((input) => input.graph !== this)
    if (stranger !== undefined) throw new GraphError(`${spec.name} mixes values of two graphs`, 'build both operands in one graph')
    return this.#intern(`${spec.name} ${spec.inputs.map((input) => input.id).join()} ${spec.key}`, () => {
      const outputs = spec.types.map((type) => this.#value(type))
      const node: Node = { name: spec.name, inputs: spec.inputs, outputs, ...spec.build(outputs) }
      this.nodes.push(node)
      for (const output of outputs) this.#producers.set(output.id, node)
      return outputs
    })
  }

  /** Returns the node that computes a value; undefined for inputs and constants. */
  producer (value: Value): Node | undefined {
    return this.#producers.get(value.id)
  }

  /** The tensor behind a constant; undefined for other values. */
  constantOf (value: Value): Tensor | undefined {
    return this.#constants.get(value.id)
  }

  /** Returns an input's name; undefined for other values. */
  inputName (value: Value): string | undefined {
    return this.#inputNames.get(value.id)
  }

  /** Returns a value that has this symbolic size, an input if there is one. */
  holderOf (dim: string): Value | undefined {
    for (const input of this.inputs.values()) if (input.shape.includes(dim)) return input
    return this.#dimHolders.get(dim)
  }

  #value ({ dtype, shape }: ValueType): Value {
    const value: Value = { id: this.#values++, dtype, shape: [...shape], graph: this }
    for (const dim of shape) if (typeof dim === 'string' && !this.#dimHolders.has(dim)) this.#dimHolders.set(dim, value)
    return value
  }

  #intern (key: string, make: () => readonly Value[]): readonly Value[] {
    const known = this.#interned.get(key)
    if (known !== undefined) return known
    const made = make()
    this.#interned.set(key, made)
    return made
  }
}

function scalarData (value: number, dtype: DType): TensorData {
  switch (dtype) {
    case 'float32': return Float32Array.of(value)
    case 'float16': return toFloat16(Float32Array.of(value))
    case 'int8': return Int8Array.of(value)
    case 'int32': return Int32Array.of(value)
    case 'uint32': return Uint32Array.of(value)
    case 'int64': return BigInt64Array.of(BigInt(value))
    case 'uint8': case 'bool': return Uint8Array.of(value)
  }
}
