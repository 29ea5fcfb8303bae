import { int32, type Tensor } from '../../tensor.ts'
import type { Partition, Model } from '../families/index.ts'
import { Embedding } from '../layers/embedding.ts'
import { accumulate } from '../layers/gradient-sum.ts'
import { Head, type Loss } from '../layers/head.ts'
import { sequencesOf, type HiddenStates } from '../layers/hidden-states.ts'
import type { Trainable } from '../layers/trainable.ts'
import { ModelWeights, type WeightSource } from '../layers/weights.ts'
import type { AnyTensor, Device, DeviceTensor } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import type { Batch } from '../text/batches.ts'
import { TrainableSpan, type ForwardOptions, type SavedActivations, type SpanOptions } from './trainable-span.ts'

export type { Loss } from '../layers/head.ts'

interface StepOptions {
  /** The seed of dropout's random bits. Adapters that drop out need one, new for each step. */
  readonly seed?: string
}

/** A client's part of a model. Bottom and top share their weights; `weights.trained` holds everything that they train. */
export interface ClientModel {
  readonly bottom: Bottom
  readonly top: Top
  readonly weights: ModelWeights
}

/** Loads a client's part of a model: the embedding with the first blocks, the last blocks with the head. */
export async function loadClientModel (
  device: Device,
  model: Model,
  source: WeightSource,
  { inputBlocks, outputBlocks }: Partition,
  trainable: Trainable,
  options: Omit<SpanOptions, 'weights'> = {}
): Promise<ClientModel> {
  const weights = new ModelWeights(device, model, trainable, options.format)
  const span = async (first: number, end: number): Promise<TrainableSpan> =>
    await TrainableSpan.load(device, model, source, { first, end }, trainable, { ...options, weights })
  return await weights.orFreed(async () => {
    await weights.loadEmbedding(source)
    await weights.loadHead(source)
    const [first, last] = [await span(0, inputBlocks), await span(model.layers - outputBlocks, model.layers)]
    return { bottom: new Bottom(first, await Embedding.open(weights)), top: new Top(last, await Head.open(weights)), weights }
  })
}

/** The activations that a forward pass of the bottom saves. */
export interface BottomActivations {
  /** Frees the activations without a backward pass. */
  readonly free: () => void
  readonly blocks: SavedActivations
  /** The hidden states that entered the first block. */
  readonly embedded: DeviceTensor
  readonly ids: Tensor
}

/** Computes the embedding and the first blocks. */
export class Bottom {
  readonly span: TrainableSpan
  readonly #embedding: Embedding

  constructor (span: TrainableSpan, embedding: Embedding) {
    this.span = span
    this.#embedding = embedding
  }

  /** Computes the hidden states [rows, hidden] that enter the middle, from token ids, one array a sequence. The caller frees them. */
  async forward (
    sequences: Batch['ids'],
    { keepResiduals, seed }: StepOptions & Pick<ForwardOptions, 'keepResiduals'>
  ): Promise<{ hidden: DeviceTensor, residuals?: BottomActivations }> {
    const { device } = this.span
    const flat = sequences.flat()
    const ids = int32([flat.length], flat)
    using scope = new Scope(device)
    const embedded = scope.own(await this.#embedding.forward(ids))
    const { hidden, residuals } = await this.span.forward({ hidden: embedded, ...sequencesOf(this.span.model, sequences) }, {
      keepResiduals,
      ...seedsOf(flat.length, seed)
    })
    if (residuals === undefined) return { hidden }
    scope.release([embedded])
    const free = (): void => {
      residuals.free()
      device.free(embedded)
    }
    return { hidden, residuals: { blocks: residuals, embedded, ids, free } }
  }

  /** Computes the gradients of trained tensors, by name, from that of a forward pass's result. Frees the saved activations. */
  async backward (residuals: BottomActivations, gradient: AnyTensor): Promise<Map<string, DeviceTensor>> {
    using scope = new Scope(this.span.device)
    scope.own(residuals.embedded)
    if (!this.#embedding.isTrained) return await this.span.backwardToParameters(residuals.blocks, gradient)
    const { gradient: hiddenGradient, adapters } = await this.span.backward(residuals.blocks, gradient)
    scope.own(hiddenGradient)
    return new Map([...adapters, ...await this.#embedding.backward(residuals.ids, hiddenGradient)])
  }
}

export interface TopGradients extends Loss {
  /** The gradient of `lossSum` for the rows that came in, [rows, hidden]. */
  readonly gradient: DeviceTensor
  /** The gradients of `lossSum` for trained tensors, by name. */
  readonly gradients: Map<string, DeviceTensor>
}

/** Computes the last blocks and the head. */
export class Top {
  readonly span: TrainableSpan
  readonly #head: Head

  constructor (span: TrainableSpan, head: Head) {
    this.span = span
    this.#head = head
  }

  /** Computes the loss of rows from the middle and its gradients. `targets` are IGNORED_TARGET where none counts. The caller frees them. */
  async train (rows: HiddenStates, targets: Batch['targets'], { seed }: StepOptions = {}): Promise<TopGradients> {
    const { device } = this.span
    using scope = new Scope(device)
    const hidden = await scope.upload(rows.hidden)
    const forward = await this.span.forward({ ...rows, hidden }, { keepResiduals: true, ...seedsOf(hidden.shape[0]!, seed) })
    scope.own(forward.hidden)
    try {
      const { gradients, ...loss } = await this.#head.gradients(forward.hidden, targets)
      const headGradient = scope.own(gradients.get('hidden')!)
      gradients.delete('hidden')
      const { gradient, adapters } = await this.span.backward(forward.residuals!, headGradient)
      await accumulate(device, gradients, adapters)
      return { ...loss, gradient, gradients }
    } finally {
      forward.residuals!.free()
    }
  }

  /** Computes the loss of rows from the middle, without gradients. */
  async evaluate (rows: HiddenStates, targets: Batch['targets']): Promise<Loss> {
    using scope = new Scope(this.span.device)
    const { hidden } = await this.span.forward(rows, { keepResiduals: false })
    return await this.#head.loss(scope.own(hidden), targets)
  }

  /** Computes the loss of each sequence of rows from the middle, without gradients. */
  async losses (rows: HiddenStates, targets: Batch['targets']): Promise<Loss[]> {
    using scope = new Scope(this.span.device)
    const { hidden } = await this.span.forward(rows, { keepResiduals: false })
    return await this.#head.losses(scope.own(hidden), targets)
  }

  /** Computes logits, float32 [taken, vocabulary], of these rows, or of the last row of each sequence. */
  async logits (rows: HiddenStates, taken: readonly number[] = lastRows(rows.lengths)): Promise<Tensor> {
    using scope = new Scope(this.span.device)
    const { hidden } = await this.span.forward(rows, { keepResiduals: false })
    return await this.#head.logits(scope.own(hidden), taken)
  }
}

/** Finds the number of each sequence's last row. */
function lastRows (lengths: readonly number[]): number[] {
  let end = 0
  return lengths.map((length) => (end += length) - 1)
}

function seedsOf (rows: number, seed: string | undefined): Pick<ForwardOptions, 'seeds'> {
  return seed === undefined ? {} : { seeds: [{ rows, seed }] }
}
