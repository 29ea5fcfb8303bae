import type { Span } from '../../span.ts'
// Names and shapes of a model's weights, as its checkpoint has them.
import type { Model, Norm } from './family.ts'

/** The name and shape of a weight. */
export interface WeightSpec {
  readonly name: string
  readonly shape: readonly number[]
}

/** Returns the names and shapes of a normalisation's weights. */
function normWeights ({ name, kind, size }: Norm): WeightSpec[] {
  return (kind === 'rms' ? ['weight'] : ['weight', 'bias']).map((part) => ({ name: `${name}.${part}`, shape: [size] }))
}

/** Returns the names and shapes of a block's weights, without the block's own prefix. */
export function blockWeights (model: Model): WeightSpec[] {
  return [
    ...model.norms.flatMap(normWeights),
    ...model.linears.flatMap(({ name, inputSize, outputSize, bias }) => [
      { name: `${name}.weight`, shape: [outputSize, inputSize] },
      ...(bias ? [{ name: `${name}.bias`, shape: [outputSize] }] : [])
    ])
  ]
}

/** Returns the checkpoint's name of a block's weight. */
export function blockTensor ({ layersPrefix }: Model, layer: number, name: string): string {
  return `${layersPrefix}.${layer}.${name}`
}

/** Returns the checkpoint's names of a span's weights. */
export function spanTensors (model: Model, { first, end }: Span): string[] {
  const layers = Array.from({ length: end - first }, (_, i) => first + i)
  return layers.flatMap((layer) => blockWeights(model).map(({ name }) => blockTensor(model, layer, name)))
}

export function embeddingWeight ({ embedding, vocabularySize, hiddenSize }: Model): WeightSpec {
  return { name: embedding, shape: [vocabularySize, hiddenSize] }
}

/** Returns the weight of the head: the embedding where they are tied. */
export function headWeight (model: Model): WeightSpec {
  return { ...embeddingWeight(model), name: model.tied ? model.embedding : model.head }
}

/** Returns the names and shapes of the weights after the last block: the final norm's and the head's. */
export function headWeights (model: Model): WeightSpec[] {
  return [...normWeights(model.finalNorm), headWeight(model)]
}

/** Returns the names and shapes of all of a model's weights in its checkpoint; a tied head once. */
export function modelWeights (model: Model): WeightSpec[] {
  const blocks = Array.from(
    { length: model.layers },
    (_, layer) => blockWeights(model).map(({ name, shape }) => ({ name: blockTensor(model, layer, name), shape }))
  )
  return [embeddingWeight(model), ...blocks.flat(), ...headWeights(model).filter(({ name }) => name !== model.embedding)]
}

/** How many blocks a client computes before and after the middle. */
export interface Partition {
  readonly inputBlocks: number
  readonly outputBlocks: number
}

/** Returns the checkpoint's names of what a client with this partition needs; a tied embedding once. */
export function clientTensors (model: Model, { inputBlocks, outputBlocks }: Partition): string[] {
  return [...new Set([
    model.embedding,
    ...spanTensors(model, { first: 0, end: inputBlocks }),
    ...spanTensors(model, { first: model.layers - outputBlocks, end: model.layers }),
    ...headWeights(model).map(({ name }) => name)
  ])]
}
