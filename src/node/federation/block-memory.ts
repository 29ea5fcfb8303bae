import { kindOf } from '../../model/families/family.ts'
import { blockWeights, type Model } from '../../model/families/index.ts'
import { blockPrograms, type ResidualPolicy } from '../../model/layers/block-programs.ts'
import { blockTraining, trainedShapes } from '../../model/layers/trainable.ts'
import { keptTensors, type WeightFormat } from '../../model/layers/weight-format.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import { charteredModel, servableSpan, trainableOf } from '../../roles/charter-settings.ts'
import { bytesPerElement, type DType } from '../../tensor.ts'

/** The device memory that a server takes. */
export interface ServerMemory {
  /** Bytes for each block of the middle, its first block first: weights, what is trained of it, and the activations of a round. */
  readonly blockBytes: readonly number[]
  /** Bytes whatever the blocks are: the KV caches that the charter allows. */
  readonly fixedBytes: number
}

/** How a server keeps its blocks. */
export interface MemorySettings {
  readonly format: WeightFormat
  readonly residuals: ResidualPolicy
}

/** A worker keeps a block's trained values and their gradients; the optimiser's moments are the coordinator's. */
const COPIES_OF_TRAINED = 2

/**
 * Computes the device memory that a server of a federation takes for each block. Activations are counted for a round of the fewest clients
 * that it waits for, each with the largest batch that it may bring.
 */
export function serverMemory (charter: Charter, settings: MemorySettings): ServerMemory {
  const model = charteredModel(charter)
  const { first, end } = servableSpan(charter)
  const blockBytes = Array.from({ length: end - first }, (_, index) => bytesOfBlock(charter, model, first + index, settings))
  return { blockBytes, fixedBytes: charter.limits.cacheBytes }
}

function bytesOfBlock (charter: Charter, model: Model, layer: number, { format, residuals }: MemorySettings): number {
  const trainable = trainableOf(charter)
  const training = blockTraining(model, trainable, layer)
  const frozen = blockWeights(model).filter(({ name }) => !training.weights.includes(name))
  const frozenBytes = frozen.reduce((sum, weight) => sum + keptTensors(weight, format).values().reduce((bytes, kept) =>
    bytes + bytesOf(kept.dtype, kept.shape), 0), 0)
  const trained = trainedShapes(model, trainable, { first: layer, end: layer + 1 })
  const trainedBytes = trained.reduce((sum, { shape }) => sum + bytesOf('float32', shape), 0)
  const programs = blockPrograms({ model, kind: kindOf(model, layer), training, format, rowType: undefined }, residuals)
  const rowBytes = programs.forward.outputs.filter(({ name }) => programs.residuals.includes(name))
    .reduce((sum, { dtype, shape = [] }) => sum + bytesOf(dtype, shape), bytesOf('float32', [model.hiddenSize]))
  const { maxTokensPerClient, minClients } = charter.training
  return frozenBytes + COPIES_OF_TRAINED * trainedBytes + rowBytes * maxTokensPerClient * minClients
}

/** The bytes of a tensor; of one row where a dimension is the number of rows. */
function bytesOf (dtype: DType, shape: ReadonlyArray<number | string>): number {
  return shape.reduce<number>((product, size) => product * (typeof size === 'number' ? size : 1), bytesPerElement[dtype])
}
