import type { Encoding } from '../../../encoding.ts'
import { sequencesOf, type Sequences } from '../../../model/layers/hidden-states.ts'
import type { Boundary, Protection } from '../../../model/privacy/boundary.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import type { Batch } from '../../../model/text/batches.ts'
import type { ClientModel, BottomActivations, Loss } from '../../../model/training/client-model.ts'
import { accumulate, GradientSum } from '../../../model/training/gradient-sum.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../../protocols/wire/hidden-states.ts'
import type { Tensor } from '../../../tensor.ts'
import { clientDropoutSeed } from '../../training/participant.ts'

export interface ClientEndsComponents {
  readonly device: Device
  readonly ends: ClientModel
  readonly boundary: Boundary
  readonly wire: Encoding
  readonly hiddenSize: number
  /** This client, as the server knows it. */
  readonly peer: string
  /** What protects hidden rows and gradient rows when they leave. */
  readonly protection: { readonly hidden: Protection, readonly gradient: Protection }
}

/** A client's two ends and the boundary between them and the network. */
export class ClientEnds {
  readonly #c: ClientEndsComponents

  constructor (components: ClientEndsComponents) {
    this.#c = components
  }

  /** For the gradients of several passes. */
  gradientSum (): GradientSum {
    return new GradientSum(this.#c.device)
  }

  /** Starts a training pass. */
  async forward (batch: Batch, passSeed: string): Promise<TrainingPass> {
    return await TrainingPass.start(this.#c, batch, clientDropoutSeed(passSeed, this.#c.peer))
  }

  /** A batch's hidden rows, as they may leave, for an evaluation. */
  async release (ids: Batch['ids']): Promise<Tensor[]> {
    const { device, ends, boundary, protection } = this.#c
    const { hidden } = await ends.bottom.forward(ids, { keepResiduals: false })
    const { tensors } = await boundary.protect(hidden, protection.hidden)
    device.free(hidden)
    return tensors
  }

  /** The loss of rows that came back from the middle. Throws BadMessageError when they are not what was sent. */
  async evaluate (batch: Batch, tensors: readonly Tensor[]): Promise<Loss> {
    const { device, ends, boundary } = this.#c
    checkHiddenStates(tensors, rowsOf(batch, this.#c))
    const hidden = await boundary.decode(tensors)
    try {
      return await ends.top.evaluate({ hidden, ...sequencesOf(ends.bottom.span.model, batch.ids) }, batch.targets)
    } finally {
      device.free(hidden)
    }
  }
}

/** One batch on its way through a client's ends: hidden rows out, hidden rows in, gradients out, gradients in. */
export class TrainingPass {
  /** Hidden rows as they may leave. */
  readonly hidden: readonly Tensor[]
  /** Share of the released rows that were clipped: of the hidden rows, later of hidden and gradient rows. */
  clippedFraction: number
  lossSum = 0
  /** Target tokens that count. */
  readonly tokens: number
  /** Gradients of the client's adapters after `finish`, by name. */
  gradients = new Map<string, DeviceTensor>()
  /** How its rows fall into sequences. */
  readonly sequences: Sequences
  readonly #c: ClientEndsComponents
  readonly #batch: Batch
  readonly #dropoutSeed: string
  #residuals: BottomActivations | undefined

  private constructor (
    components: ClientEndsComponents,
    batch: Batch,
    dropoutSeed: string,
    hidden: readonly Tensor[],
    clippedFraction: number,
    residuals: BottomActivations
  ) {
    this.#c = components
    this.#batch = batch
    this.sequences = sequencesOf(components.ends.bottom.span.model, batch.ids)
    this.#dropoutSeed = dropoutSeed
    this.#residuals = residuals
    this.hidden = hidden
    this.clippedFraction = clippedFraction
    this.tokens = batch.tokens
  }

  static async start (components: ClientEndsComponents, batch: Batch, dropoutSeed: string): Promise<TrainingPass> {
    const { device, ends, boundary, protection } = components
    const { hidden, residuals } = await ends.bottom.forward(batch.ids, { keepResiduals: true, seed: dropoutSeed })
    if (residuals === undefined) throw new Error('a training pass kept no residuals')
    const { tensors, clippedFraction } = await boundary.protect(hidden, protection.hidden)
    device.free(hidden)
    return new TrainingPass(components, batch, dropoutSeed, tensors, clippedFraction, residuals)
  }

  /** Rows that came back from the middle to the loss, which stays here, and its gradient rows as they may leave. */
  async learn (tensors: readonly Tensor[]): Promise<readonly Tensor[]> {
    const { device, ends, boundary, protection } = this.#c
    checkHiddenStates(tensors, rowsOf(this.#batch, this.#c))
    const hidden = await boundary.decode(tensors)
    const { lossSum, gradient, gradients } = await ends.top.train({ hidden, ...this.sequences }, this.#batch.targets, {
      seed: this.#dropoutSeed
    })
    device.free(hidden)
    this.#freeGradients()
    this.gradients = gradients
    this.lossSum = lossSum
    const released = await boundary.protect(gradient, protection.gradient)
    device.free(gradient)
    this.clippedFraction = (this.clippedFraction + released.clippedFraction) / 2
    return released.tensors
  }

  /** Gradient rows that came back from the middle to the gradients of the client's own adapters. */
  async finish (tensors: readonly Tensor[]): Promise<void> {
    const { device, ends, boundary } = this.#c
    checkHiddenStates(tensors, rowsOf(this.#batch, this.#c))
    const residuals = this.#residuals
    if (residuals === undefined) throw new BadMessageError('the same gradient came twice')
    this.#residuals = undefined
    const gradient = await boundary.decode(tensors)
    await accumulate(device, this.gradients, await ends.bottom.backward(residuals, gradient))
    device.free(gradient)
  }

  /** Hands the gradients on: they are no longer freed here. */
  takeGradients (): Map<string, DeviceTensor> {
    const gradients = this.gradients
    this.gradients = new Map()
    return gradients
  }

  /** Lets go of everything on the device. */
  free (): void {
    this.#residuals?.free()
    this.#residuals = undefined
    this.#freeGradients()
  }

  #freeGradients (): void {
    this.#c.device.free(...this.gradients.values())
    this.gradients = new Map()
  }
}

function rowsOf (batch: Batch, { wire, hiddenSize }: ClientEndsComponents): { wire: Encoding, hidden: number, rows: number } {
  return { wire, hidden: hiddenSize, rows: batch.lengths.reduce((total, length) => total + length, 0) }
}
