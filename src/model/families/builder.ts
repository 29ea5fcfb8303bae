import type { Graph, Value } from '../graph/graph.ts'
import { add, layerNorm, matmul, mul, reshape, rmsNorm } from '../graph/operators/index.ts'
import { UnsupportedModelError, type BlockBuilder, type Model, type Norm } from './family.ts'
import type { WeightSpec } from './weights.ts'

/**
 * Attention from projected rows: q [rows, heads * headSize], k and v [rows, kvHeads * headSize], neither turned yet; [rows, heads *
 * headSize].
 */
export type Attention = (q: Value, k: Value, v: Value) => Value

/** A LoRA adapter's factors: A [r, in], B [out, r]. */
export interface Adapter {
  readonly a: Value
  readonly b: Value
  readonly scaling: number
  /** What the adapter sees of the module's input: dropout in training. */
  readonly dropout?: (x: Value) => Value
}

export interface BlockBuilderOptions {
  readonly graph: Graph
  readonly model: Model
  /** What stands before the names of the program's inputs: empty where the program is one block. */
  readonly prefix?: string
  readonly attention: Attention
  /**
   * x [rows, in] times the transpose of a module's weight [out, in], which is an input of the graph in whatever form it is kept; one of
   * float32 unless given.
   */
  readonly product?: (x: Value, weight: WeightSpec) => Value
  /** The adapter of a module that has one. */
  readonly adapter?: (module: string) => Adapter | undefined
}

/**
 * x [rows, n * size], each run of `size` normalised, by weights that are inputs of the graph; the result is worth keeping for the backward
 * pass.
 */
export function normalized (x: Value, { name, kind, size }: Norm, epsilon: number, prefix = ''): Value {
  const { graph, shape: [rows, width] } = x
  const weight = (part: string): Value => graph.input(`${prefix}${name}.${part}`, 'float32', [size])
  const runs = width === size ? x : reshape(x, ['runs', size])
  const parts = kind === 'rms' ? rmsNorm(runs, weight('weight'), epsilon) : layerNorm(runs, weight('weight'), weight('bias'), epsilon)
  for (const part of Object.values(parts)) graph.mark(part)
  return width === size ? parts.output : graph.mark(reshape(parts.output, [rows!, width!]))
}

/**
 * Writes the operations of a block into a graph. The weights are inputs of the graph, under their names in the block. The attention and
 * the adapters that the options give decide whether the program is for training, prefill or decoding.
 */
export class GraphBlockBuilder implements BlockBuilder {
  readonly graph: Graph
  readonly model: Model
  readonly #prefix: string
  readonly #attention: Attention
  readonly #product: (x: Value, weight: WeightSpec) => Value
  readonly #adapter: (module: string) => Adapter | undefined

  constructor ({ graph, model, prefix = '', attention, product = plainProduct, adapter = () => undefined }: BlockBuilderOptions) {
    this.graph = graph
    this.model = model
    this.#prefix = prefix
    this.#attention = attention
    this.#product = product
    this.#adapter = adapter
  }

  linear (module: string, x: Value): Value {
    const found = this.model.linears.find(({ name }) => name === module)
    if (found === undefined) throw new UnsupportedModelError(`${this.model.architecture} has no linear module ${module}`)
    const product = this.#product(x, { name: `${this.#prefix}${module}.weight`, shape: [found.outputSize, found.inputSize] })
    const y = found.bias ? add(product, this.graph.input(`${this.#prefix}${module}.bias`, 'float32', [found.outputSize])) : product
    const adapter = this.#adapter(module)
    if (adapter === undefined) return y
    const seen = adapter.dropout?.(x) ?? x
    const low = matmul(seen, adapter.a, { transposeB: true })
    return add(y, matmul(mul(low, adapter.scaling), adapter.b, { transposeB: true }))
  }

  norm (name: string, x: Value): Value {
    const found = this.model.norms.find((norm) => norm.name === name)
    if (found === undefined) throw new UnsupportedModelError(`${this.model.architecture} has no norm ${name}`)
    return normalized(x, found, this.model.normEpsilon, this.#prefix)
  }

  attention (q: Value, k: Value, v: Value): Value {
    return this.#attention(q, k, v)
  }

  keep (value: Value): Value {
    return this.graph.mark(value)
  }
}

function plainProduct (x: Value, { name, shape }: WeightSpec): Value {
  return matmul(x, x.graph.input(name, 'float32', shape), { transposeB: true })
}
