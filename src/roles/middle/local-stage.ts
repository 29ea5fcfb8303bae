import { concatRows, sliceRows, type Sequences } from '../../model/layers/hidden-states.ts'
import type { Boundary } from '../../model/privacy/boundary.ts'
import type { Device, DeviceTensor } from '../../model/runtime/device.ts'
import { Scope } from '../../model/runtime/scope.ts'
import { accumulate, GradientSum } from '../../model/training/gradient-sum.ts'
import type { SavedActivations, TrainableSpan } from '../../model/training/trainable-span.ts'
import type { Tensor } from '../../tensor.ts'
import { clientDropoutSeed } from '../training/participant.ts'
import { segments, type Segment } from './segments.ts'

/** A client's rows as they came over the wire, and the blocks that they pass. */
export interface BatchItem extends Sequences {
  readonly id: string
  readonly first: number
  readonly end: number
  readonly tensors: readonly Tensor[]
}

/** Rows that share a run, at most: bounds the device memory that one run's activations take. */
const ROW_BUDGET = 16_384

export interface LocalStageComponents {
  readonly device: Device
  readonly span: TrainableSpan
  readonly boundary: Boundary
}

/** The server's blocks at work, for several clients at once. */
export class LocalStage {
  readonly #components: LocalStageComponents

  constructor (components: LocalStageComponents) {
    this.#components = components
  }

  /** Takes everyone's rows through their blocks, keeping what the way back needs. Passengers come in the order of their ids. */
  async forward (passengers: readonly BatchItem[], dropoutSeed: string): Promise<ForwardPass> {
    return await ForwardPass.start(this.#components, passengers, dropoutSeed)
  }

  /** For the adapter gradients of several passages. */
  gradientSum (): GradientSum {
    return new GradientSum(this.#components.device)
  }

  /** Takes one client's rows through its blocks and forgets them. Resolves with the rows as they go over the wire. */
  async evaluate ({ first, end, lengths, contexts, tensors }: BatchItem): Promise<Tensor[]> {
    const { device, span, boundary } = this.#components
    const held = [await boundary.decode(tensors)]
    try {
      const { hidden } = await span.forward({ hidden: held[0] as DeviceTensor, lengths, contexts }, { first, end, keepResiduals: false })
      held.push(hidden)
      return await boundary.encode(hidden)
    } finally {
      device.free(...held)
    }
  }
}

interface Run {
  readonly segment: Segment
  readonly residuals: SavedActivations
}

/** Rows of several clients on their way through the middle, and back. */
export class ForwardPass {
  /** Every passenger's rows after its last block, as they go over the wire. */
  readonly hidden = new Map<string, readonly Tensor[]>()
  /** The middle's adapter gradients after `backward`, by name: sums over the passengers that came back. */
  adapterGradients: Map<string, DeviceTensor> = new Map()
  readonly #components: LocalStageComponents
  readonly #passengers: ReadonlyMap<string, BatchItem>
  readonly #runs: Run[] = []
  /** All rows of this passage on the device, so that none stays behind when a run fails. */
  readonly #scope: Scope

  private constructor (components: LocalStageComponents, passengers: readonly BatchItem[]) {
    this.#components = components
    this.#scope = new Scope(components.device)
    this.#passengers = new Map(passengers.map((passenger) => [passenger.id, passenger]))
  }

  static async start (components: LocalStageComponents, passengers: readonly BatchItem[], dropoutSeed: string): Promise<ForwardPass> {
    const passage = new ForwardPass(components, passengers)
    try {
      await passage.#forward(dropoutSeed)
      return passage
    } catch (error) {
      passage.free()
      throw error
    }
  }

  async #forward (passSeed: string): Promise<void> {
    const { boundary, span } = this.#components
    const aboard = new Map<string, DeviceTensor>()
    for (const { id, tensors } of this.#passengers.values()) aboard.set(id, this.#scope.own(await boundary.decode(tensors)))
    const plan = segments(
      [...this.#passengers.values()].map(({ id, first, end, tensors }) => ({ id, first, end, rows: rowsOf(tensors) })),
      ROW_BUDGET
    )
    for (const segment of plan) {
      const { first, end } = segment
      const lengths = segment.items.flatMap((id) => this.#passenger(id).lengths)
      const contexts = segment.items.flatMap((id) => this.#passenger(id).contexts ?? [])
      const seeds = segment.items.map((id) => ({ rows: rowsOf(this.#passenger(id).tensors), seed: clientDropoutSeed(passSeed, id) }))
      const rows = await this.#join(segment, aboard)
      const { hidden, residuals } = await span.forward({ hidden: rows, lengths, contexts }, { first, end, keepResiduals: true, seeds })
      if (residuals === undefined) throw new Error('a training pass kept no residuals')
      this.#runs.push({ segment, residuals })
      await this.#part(segment, this.#scope.own(hidden), aboard)
    }
    await this.#alight(aboard, this.hidden)
  }

  /**
   * Takes gradient rows back to where their passengers boarded. Passengers without an answer count as if they had never come: their
   * rows have no gradient. It spends what the way there kept. Resolves with every answering passenger's gradient rows as they go over the
   * wire.
   */
  async backward (answers: ReadonlyMap<string, { readonly tensors: readonly Tensor[] }>): Promise<Map<string, readonly Tensor[]>> {
    const { boundary, device, span } = this.#components
    this.#freeGradients()
    const aboard = new Map<string, DeviceTensor>()
    for (const { id, tensors } of this.#passengers.values()) {
      const answer = answers.get(id)
      aboard.set(
        id,
        this.#scope.own(
          answer === undefined ? await device.zeros('float32', tensors[0]?.shape ?? []) : await boundary.decode(answer.tensors)
        )
      )
    }
    for (const { segment, residuals } of this.#runs.toReversed()) {
      const rows = await this.#join(segment, aboard)
      const { gradient, adapters } = await span.backward(residuals, rows)
      this.#scope.own(gradient)
      this.#scope.free(rows)
      await accumulate(device, this.adapterGradients, adapters)
      await this.#part(segment, gradient, aboard)
    }
    const gradients = new Map<string, readonly Tensor[]>()
    await this.#alight(aboard, gradients)
    return new Map([...gradients].filter(([id]) => answers.has(id)))
  }

  /** Hands the middle's adapter gradients on: they are no longer freed here. */
  takeGradients (): Map<string, DeviceTensor> {
    const gradients = this.adapterGradients
    this.adapterGradients = new Map()
    return gradients
  }

  /** Lets go of everything on the device. */
  free (): void {
    this.#freeGradients()
    for (const { residuals } of this.#runs.splice(0)) residuals.free()
    this.#scope[Symbol.dispose]()
  }

  /** A segment's riders' rows one after another, in place of their own. */
  async #join (segment: Segment, aboard: Map<string, DeviceTensor>): Promise<DeviceTensor> {
    const parts = segment.items.map((id) => aboard.get(id) as DeviceTensor)
    for (const id of segment.items) aboard.delete(id)
    if (parts.length === 1) return parts[0] as DeviceTensor
    const rows = this.#scope.own(await concatRows(this.#components.device, parts))
    this.#scope.free(...parts)
    return rows
  }

  /** Gives each of a segment's riders its own rows of the result. */
  async #part (segment: Segment, result: DeviceTensor, aboard: Map<string, DeviceTensor>): Promise<void> {
    const { device } = this.#components
    const [only, ...others] = segment.items
    if (others.length === 0) {
      aboard.set(only as string, result)
      return
    }
    let start = 0
    for (const id of segment.items) {
      const end = start + rowsOf(this.#passenger(id).tensors)
      aboard.set(id, this.#scope.own(await sliceRows(device, result, start, end)))
      start = end
    }
    this.#scope.free(result)
  }

  /** Rounds everyone's rows for the wire. */
  async #alight (aboard: ReadonlyMap<string, DeviceTensor>, target: Map<string, readonly Tensor[]>): Promise<void> {
    for (const id of this.#passengers.keys()) {
      const rows = aboard.get(id) as DeviceTensor
      target.set(id, await this.#components.boundary.encode(rows))
      this.#scope.free(rows)
    }
  }

  #freeGradients (): void {
    this.#components.device.free(...this.adapterGradients.values())
    this.adapterGradients = new Map()
  }

  #passenger (id: string): BatchItem {
    const passenger = this.#passengers.get(id)
    if (passenger === undefined) throw new RangeError(`${id} is not aboard`)
    return passenger
  }
}

function rowsOf (tensors: readonly Tensor[]): number {
  return tensors[0]?.shape[0] ?? 0
}
