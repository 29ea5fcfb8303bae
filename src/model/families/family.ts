import { MidspanError } from '../../errors.ts'
import type { Graph, Value } from '../graph/graph.ts'
import type { PromptReading } from './prompts.ts'
import type { RotaryTable } from './rotary-embedding.ts'

/** config.json of a Hugging Face model directory. */
export type Config = Readonly<Record<string, unknown>>

/** A linear module of a block: y = x W^T + b, with W [out, in]. */
export interface LinearModule {
  readonly name: string
  readonly inputSize: number
  readonly outputSize: number
  readonly bias: boolean
}

/** A normalisation of `size` elements at a time: by their root mean square (a weight), or by mean and deviation (a weight and a bias). */
export interface Norm {
  readonly name: string
  readonly kind: 'rms' | 'layer'
  readonly size: number
}

/** Writes the operations of one block. A family's block says which modules act on which values; the builder knows the weights. */
export interface BlockBuilder {
  readonly graph: Graph
  readonly model: Model
  /** Applies a linear module to x [rows, in]: its product, its bias if it has one, and its adapter if it is a target. Gives [rows, out]. */
  linear (module: string, x: Value): Value
  /** Normalises x [rows, n * size], each run of the norm's size on its own. Gives the same shape. */
  norm (name: string, x: Value): Value
  /** Attends with queries [rows, heads * headSize] over keys and values [rows, kvHeads * headSize]. Gives [rows, heads * headSize]. */
  attention (q: Value, k: Value, v: Value): Value
  /** Marks a value to be saved between the forward and the backward pass, and returns it. */
  keep (value: Value): Value
}

/** What Midspan needs to know of a model to compute it. */
export interface Model {
  /** `architectures[0]` of its configuration. */
  readonly architecture: string
  readonly layers: number
  readonly hiddenSize: number
  readonly vocabularySize: number
  readonly heads: number
  readonly kvHeads: number
  readonly headSize: number
  /** Positions the rotary tables reach to: the longest sequence. */
  readonly maxPositions: number
  readonly normEpsilon: number
  /** The head is the embedding. */
  readonly tied: boolean
  readonly rotary: RotaryTable
  /** The linear modules of a block, in the order of the computation. */
  readonly linears: readonly LinearModule[]
  /** The normalisations of a block. */
  readonly norms: readonly Norm[]
  /** Leaf names of the modules that get adapters unless the settings name others. */
  readonly defaultTargets: readonly string[]
  /** How many keys back, itself among them, a query of each block sees; null: all. */
  readonly windows: ReadonlyArray<number | null>
  /** Of a model that reads prompts in both directions: how it takes its token ids. */
  readonly prompts?: PromptReading
  /** Names in the checkpoint. */
  readonly embedding: string
  readonly finalNorm: Norm
  readonly head: string
  /** Blocks stand in the checkpoint under `${layersPrefix}.${layer}.`. */
  readonly layersPrefix: string
  /** One block: hidden states [rows, hiddenSize] to hidden states. */
  readonly block: (b: BlockBuilder, hidden: Value) => Value
}

/** What a family's file says of a model; the architecture is the configuration's own word. */
export type Description = Omit<Model, 'architecture'>

/** Architectures that are computed alike. */
export interface Family {
  readonly name: string
  /** `model_type` of its configurations. */
  readonly modelType: string
  readonly architectures: readonly string[]
  /** Its models are published with code of their own (`auto_map`), which Midspan neither runs nor needs. */
  readonly ownCode?: true
  /** Whether a configuration is of this family, where others share the name of its architecture. */
  readonly recognizes?: (config: Config) => boolean
  /** Reads a configuration. Throws UnsupportedModelError for what the family cannot compute. */
  readonly describe: (config: Config) => Description
}

/** Thrown for a model that Midspan cannot compute. */
export class UnsupportedModelError extends MidspanError {
  constructor (message: string, next?: string) {
    super('E_MODEL_UNSUPPORTED', message, { next })
  }
}

/** What distinguishes the programs of one block from those of another: blocks of one kind share them. */
export interface BlockKind {
  readonly window: number | null
}

export function kindOf (model: Model, layer: number): BlockKind {
  return { window: model.windows[layer] ?? null }
}
