import type { Span } from '../../span.ts'
import type { Model } from '../families/family.ts'
import { blockTensor, blockWeights, type WeightSpec } from '../families/weights.ts'
import { adapterShapes, adapterTargets, AdapterSettingsError, type AdapterSettings } from './lora.ts'

/**
 * Biases that are trained beside adapters, as PEFT's `bias` has it: those of all modules and norms of the blocks, or of the adapted modules
 * alone.
 */
export type TrainedBiases = 'none' | 'all' | 'lora_only'

/** Low-rank adapters, and what of the model itself is trained beside them. */
export interface AdapterTraining extends AdapterSettings {
  /** Blocks whose own weights are trained, all of them, in place of adapters. */
  readonly blocks?: readonly number[]
  /** Of the other blocks; none when left out. */
  readonly bias?: TrainedBiases
}

/** What training changes: adapters with some of the model's own weights, or every weight there is. */
export type Trainable = AdapterTraining | 'weights'

/** What is trained in one block. */
export interface BlockTraining {
  readonly adapters: AdapterSettings | undefined
  /** Names in the block of its own weights that are trained. */
  readonly weights: readonly string[]
}

/** Throws AdapterSettingsError for a target that the model lacks. */
export function blockTraining (model: Model, trainable: Trainable, layer: number): BlockTraining {
  const weights = blockWeights(model).map(({ name }) => name)
  if (trainable === 'weights' || trainable.blocks?.includes(layer) === true) return { adapters: undefined, weights }
  const { bias = 'none' } = trainable
  const adapted = new Set(adapterTargets(model, trainable).map(({ name }) => `${name}.bias`))
  return {
    adapters: trainable,
    weights: bias === 'none' ? [] : weights.filter((name) => bias === 'all' ? name.endsWith('.bias') : adapted.has(name))
  }
}

/** Returns the names of what is trained in a block, in the block. */
export function parameterNames (model: Model, { adapters, weights }: BlockTraining): string[] {
  return [
    ...adapters === undefined ? [] : adapterTargets(model, adapters).flatMap(({ name }) => [`${name}.lora_A`, `${name}.lora_B`]),
    ...weights
  ]
}

/** Returns a block's parameter among those of all blocks: `3.self_attn.q_proj.lora_A` for adapters, a weight's name in the checkpoint. */
export function parameterName (model: Model, layer: number, name: string): string {
  return isAdapter(name) ? `${layer}.${name}` : blockTensor(model, layer, name)
}

/** Returns whether a parameter is an adapter's factor rather than a weight of the model. */
export function isAdapter (name: string): boolean {
  return /\.lora_[AB]$/.test(name)
}

/** Returns the names and shapes of what is trained in a span, in order. */
export function trainedShapes (model: Model, trainable: Trainable, { first, end }: Span): WeightSpec[] {
  const shapes = new Map(blockWeights(model).map(({ name, shape }) => [name, shape]))
  return Array.from({ length: end - first }, (_, i) => first + i).flatMap((layer) => {
    const { adapters, weights } = blockTraining(model, trainable, layer)
    return [
      ...adapters === undefined
        ? []
        : [...adapterShapes(model, adapters, { first: layer, end: layer + 1 })].map(([name, shape]) => ({ name, shape })),
      ...weights.map((name) => ({ name: parameterName(model, layer, name), shape: shapes.get(name)! }))
    ]
  })
}

/** Throws AdapterSettingsError for blocks that the model lacks, and for biases where it has none. */
export function checkTrainable (model: Model, { blocks = [], bias = 'none', ...adapters }: AdapterTraining): void {
  const missing = blocks.find((block) => block < 0 || block >= model.layers)
  if (missing !== undefined) throw new AdapterSettingsError(`the model has no block ${missing}`, `its blocks are 0 to ${model.layers - 1}`)
  const { weights } = blockTraining(model, { ...adapters, bias }, 0)
  if (bias !== 'none' && weights.length === 0)
    throw new AdapterSettingsError(`${model.architecture} has no biases that ${bias} would train`, 'train none')
}
