import { MidspanError } from '../../../errors.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import type { Optimizer, StepSettings } from '../../../model/training/optimizer.ts'
import { stateNames, stateShape, type Parameters } from '../../../model/training/parameters.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { expectTensor } from '../../../protocols/wire/hidden-states.ts'
import { isFiniteTensor, type Tensor } from '../../../tensor.ts'
import type { AdapterShape } from '../../training/aggregation/strategy.ts'
import { writeProgress, type ProgressMeta } from './progress.ts'

/** Marks, in a client's snapshot, a step that was taken but that the federation may not have counted. */
const PENDING_PREFIX = 'pending/'

/** Thrown when the gradients of a client's own blocks are not finite: a step would spoil its adapters for good. */
export class GradientOverflowError extends MidspanError {
  constructor () {
    super('E_GRADIENT_OVERFLOW', "the gradients of this client's own blocks overflow", {
      next: 'training has diverged: it takes a lower learning rate or other data'
    })
  }
}

export interface ClientStateComponents {
  readonly charter: Charter
  readonly device: Device
  readonly optimizer: Optimizer
  readonly parameters: Parameters
  readonly shapes: readonly AdapterShape[]
  readonly path: string
}

/**
 * The adapters of a client's own blocks, on the device and on disk. With shared ends a step is what the federation says it is. With
 * averaged or personal ones the client steps by itself: it prepares the step, durably, before it hands in its work, and keeps or
 * reverts it when it hears whether the work counted.
 */
export class AdapterState {
  readonly #c: ClientStateComponents
  /** As training starts. */
  readonly #initial: ReadonlyMap<string, Tensor>
  #committed: ReadonlyMap<string, Tensor>
  #pending: ReadonlyMap<string, Tensor> | undefined

  private constructor (
    components: ClientStateComponents,
    initial: ReadonlyMap<string, Tensor>,
    committed: ReadonlyMap<string, Tensor>,
    pending: ReadonlyMap<string, Tensor> | undefined
  ) {
    this.#c = components
    this.#initial = initial
    this.#committed = committed
    this.#pending = pending
  }

  /** Continues from a snapshot's tensors, if there are any. */
  static async open (components: ClientStateComponents, saved: ReadonlyMap<string, Tensor> = new Map()): Promise<AdapterState> {
    const { parameters } = components
    const pending = new Map(
      [...saved].filter(([name]) => name.startsWith(PENDING_PREFIX)).map(([name, value]) => [name.slice(PENDING_PREFIX.length), value])
    )
    const initial = await parameters.state()
    await parameters.restore(saved)
    return new AdapterState(components, initial, await parameters.state(), pending.size === 0 ? undefined : pending)
  }

  /** The adapters as they are, on the host. */
  async values (): Promise<Map<string, Tensor>> {
    return await this.#c.parameters.values()
  }

  /** Gradients of the client's adapters in the order in which they are told. */
  async download (gradients: ReadonlyMap<string, DeviceTensor>): Promise<Map<string, Tensor>> {
    const ordered = this.#c.shapes.map(({ name }) => {
      const gradient = gradients.get(name)
      if (gradient === undefined) throw new Error(`there is no gradient of ${name}`)
      return gradient
    })
    const downloaded = await this.#c.device.downloadAll(ordered)
    return new Map(this.#c.shapes.map(({ name }, index) => [name, downloaded[index] as Tensor]))
  }

  /** Named tensors from the server: only of this client's own blocks, in their shapes, finite. Throws BadMessageError. */
  checked (names: readonly string[], tensors: readonly Tensor[]): Map<string, Tensor> {
    if (names.length !== tensors.length) throw new BadMessageError(`${tensors.length} tensors came with ${names.length} names`)
    const shapes = new Map(
      this.#c.shapes.flatMap(({ name, shape }) => stateNames(name).map((stateName) => [stateName, stateShape(stateName, shape)]))
    )
    return new Map(names.map((name, index) => {
      const value = tensors[index]
      const shape = shapes.get(name)
      if (shape === undefined) throw new BadMessageError(`${name} is not an adapter of this client's blocks`)
      expectTensor(name, value, name.endsWith('.t') ? 'int32' : 'float32', shape)
      if (!isFiniteTensor(value)) throw new BadMessageError(`${name} holds values that are not finite`)
      return [name, value]
    }))
  }

  /** Takes the step that every holder of these blocks takes. */
  async step (gradients: ReadonlyMap<string, Tensor>, settings: StepSettings): Promise<void> {
    await this.#c.parameters.step(this.#c.optimizer, gradients, settings)
    this.#committed = await this.#c.parameters.state()
  }

  /** The L2 norm of the gradients of the client's adapters. Throws GradientOverflowError. */
  async norm (gradients: ReadonlyMap<string, DeviceTensor>): Promise<number> {
    const norm = await this.#c.optimizer.norm(gradients.values())
    if (!Number.isFinite(norm)) throw new GradientOverflowError()
    return norm
  }

  /** Takes a step of the client's own, and writes it down as not yet counted. */
  async prepare (gradients: ReadonlyMap<string, DeviceTensor>, settings: StepSettings, meta: ProgressMeta): Promise<void> {
    const { optimizer, parameters } = this.#c
    await parameters.step(optimizer, gradients, settings)
    this.#pending = await parameters.state()
    await this.commit(meta)
  }

  /** Goes on from before the prepared step, and keeps that until it is known whether it counted. */
  async suspend (): Promise<void> {
    if (this.#pending !== undefined) await this.#c.parameters.restore(this.#committed)
  }

  /** Keeps the prepared step. */
  async promote (): Promise<void> {
    if (this.#pending === undefined) return
    this.#committed = this.#pending
    this.#pending = undefined
    await this.#c.parameters.restore(this.#committed)
  }

  /** Drops the prepared step. */
  async revert (): Promise<void> {
    if (this.#pending === undefined) return
    this.#pending = undefined
    await this.#c.parameters.restore(this.#committed)
  }

  /** Goes back to the adapters as training starts. With shared ends the federation's replace them at once. */
  async reset (): Promise<void> {
    this.#pending = undefined
    this.#committed = this.#initial
    await this.#c.parameters.restore(this.#initial)
  }

  /** Takes over state that the federation has and this client missed. */
  async adopt (state: ReadonlyMap<string, Tensor>): Promise<void> {
    this.#committed = new Map([...this.#committed, ...state])
    await this.#c.parameters.restore(this.#committed)
  }

  /** Makes the state durable together with the place in the rounds that it belongs to. */
  async commit (meta: ProgressMeta): Promise<void> {
    const pending = [...this.#pending ?? []].map(([name, value]) => [PENDING_PREFIX + name, value] as const)
    await writeProgress(this.#c.path, { meta, tensors: new Map([...this.#committed, ...pending]) })
  }
}
