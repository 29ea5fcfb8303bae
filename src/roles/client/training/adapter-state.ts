import { MidspanError } from '../../../errors.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import type { Optimizer, StepSettings } from '../../../model/training/optimizer.ts'
import { stateNames, stateShape, type Parameters } from '../../../model/training/parameters.ts'
import type { Partition } from '../../../protocols/charter/schema.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkMagnitude, expectTensor } from '../../../protocols/wire/hidden-states.ts'
import { withSignal } from '../../../protocols/wire/wait.ts'
import { isFiniteTensor, type Tensor } from '../../../tensor.ts'
import { blockOf, type AdapterShape } from '../../training/aggregation/strategy.ts'
import { PENDING_PREFIX, writeProgress, type Progress, type ProgressMeta } from './progress.ts'

/** Steps that a server may say were taken: far above any training, and far below where an int32 ends. */
const MAX_STEPS = 2 ** 30

/** Thrown when the gradients of a client's own blocks are not finite: a step would spoil its adapters for good. */
export class GradientOverflowError extends MidspanError {
  constructor () {
    super('E_GRADIENT_OVERFLOW', "the gradients of this client's own blocks overflow", {
      next: 'training has diverged: it takes a lower learning rate or other data'
    })
  }
}

/** Thrown when a step would leave values that are not finite. The adapters are as before the step then. */
export class StepOverflowError extends MidspanError {
  constructor (name: string) {
    super('E_STEP_OVERFLOW', `the step would leave values in ${name} that are not finite, and was not taken`, {
      next: 'training has diverged, or the server sent what no step is made of: ask whoever runs it'
    })
  }
}

export interface AdapterStateComponents {
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
  readonly #c: AdapterStateComponents
  /** The state as training starts. */
  readonly #initial: ReadonlyMap<string, Tensor>
  #committed: ReadonlyMap<string, Tensor>
  #pending: ReadonlyMap<string, Tensor> | undefined
  #progress: ProgressMeta | undefined
  /** Blocks whose adapters this client has not been told yet, since it took them over from the middle. */
  #lacking: readonly number[]
  readonly #whole = Promise.withResolvers<void>()

  private constructor (
    components: AdapterStateComponents,
    initial: ReadonlyMap<string, Tensor>,
    committed: ReadonlyMap<string, Tensor>,
    pending: ReadonlyMap<string, Tensor> | undefined,
    progress: ProgressMeta | undefined
  ) {
    this.#c = components
    this.#initial = initial
    this.#committed = committed
    this.#pending = pending
    this.#progress = progress
    this.#lacking = progress?.lacking ?? []
    if (this.#lacking.length === 0) this.#whole.resolve()
  }

  /** Continues from a snapshot, if there is one. */
  static async open (components: AdapterStateComponents, saved?: Progress): Promise<AdapterState> {
    const { parameters } = components
    const tensors = saved?.tensors ?? new Map<string, Tensor>()
    const pending = new Map(
      [...tensors].filter(([name]) => name.startsWith(PENDING_PREFIX)).map(([name, value]) => [name.slice(PENDING_PREFIX.length), value])
    )
    const initial = await parameters.state()
    await parameters.restore(tensors)
    const committed = await parameters.state()
    // A step that was prepared with other blocks has none of those that came since.
    const prepared = pending.size === 0 ? undefined : new Map([...committed, ...pending])
    return new AdapterState(components, initial, committed, prepared, saved?.meta)
  }

  /** The place in the rounds that was made durable last; undefined before the first training. */
  get progress (): ProgressMeta | undefined { return this.#progress }

  /** Blocks whose adapters are not this client's yet: it holds their weights, and the middle had them until now. */
  get lacking (): readonly number[] { return this.#lacking }

  /** Resolves when no block lacks its adapters. Rejects with the signal's reason. */
  async whole (signal: AbortSignal): Promise<void> {
    await withSignal(this.#whole.promise, signal)
  }

  /** The adapters as they are, on the host. */
  async values (): Promise<Map<string, Tensor>> {
    return await this.#c.parameters.values()
  }

  /** Copies gradients of the client's adapters to the host, in the order in which they are handed in. Throws GradientOverflowError. */
  async download (gradients: ReadonlyMap<string, DeviceTensor>): Promise<Map<string, Tensor>> {
    const ordered = this.#c.shapes.map(({ name }) => {
      const gradient = gradients.get(name)
      if (gradient === undefined) throw new Error(`there is no gradient of ${name}`)
      return gradient
    })
    const downloaded = await this.#c.device.downloadAll(ordered)
    if (!downloaded.every(isFiniteTensor)) throw new GradientOverflowError()
    return new Map(this.#c.shapes.map(({ name }, index) => [name, downloaded[index] as Tensor]))
  }

  /**
   * Checks named tensors from the server: only of this client's own blocks, in their shapes, with values that adapters and an optimiser's
   * state can have. Throws BadMessageError.
   */
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
      if (mayBeNegative(name)) checkMagnitude(name, value)
      else if ((value.data as Float32Array | Int32Array).some((element) => element < 0))
        throw new BadMessageError(`${name} holds negative values: it is a sum of squares, or a count`)
      if (name.endsWith('.t') && (value.data[0] as number) > MAX_STEPS)
        throw new BadMessageError(`${name} counts ${value.data[0]} steps, more than ${MAX_STEPS}`)
      return [name, value]
    }))
  }

  /** Takes the step that every holder of these blocks takes. Throws StepOverflowError. */
  async step (gradients: ReadonlyMap<string, Tensor>, settings: StepSettings): Promise<void> {
    this.#committed = await this.#stepped(gradients, settings)
  }

  /** The L2 norm of the gradients of the client's adapters. Throws GradientOverflowError. */
  async norm (gradients: ReadonlyMap<string, DeviceTensor>): Promise<number> {
    const norm = await this.measureNorm(gradients)
    if (!Number.isFinite(norm)) throw new GradientOverflowError()
    return norm
  }

  /** The same, which is not finite where the sum of the squares is too large. */
  async measureNorm (gradients: ReadonlyMap<string, DeviceTensor>): Promise<number> {
    return await this.#c.optimizer.norm(gradients.values())
  }

  /** Takes a step of the client's own, and writes it down as not yet counted. Throws StepOverflowError. */
  async prepare (gradients: ReadonlyMap<string, DeviceTensor>, settings: StepSettings, meta: ProgressMeta): Promise<void> {
    this.#pending = await this.#stepped(gradients, settings)
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
    this.#isWhole()
  }

  /**
   * Takes over the adapters of blocks that this client lacks; `round` is the federation's. Throws BadMessageError where some are missing,
   * unless no round is over, so that they are as training starts.
   */
  async complete (state: ReadonlyMap<string, Tensor>, round: number): Promise<void> {
    const missing = this.#c.shapes.find(({ name }) => this.#lacking.includes(blockOf(name)) && !state.has(name))
    if (missing !== undefined && round > 0) throw new BadMessageError(`the server did not send ${missing.name}, which this client lacks`)
    if (this.#pending !== undefined) this.#pending = new Map([...this.#pending, ...state])
    await this.adopt(state)
    this.#isWhole()
  }

  /**
   * Notes that the partition may change to this one: the settings decide. It is written twice, so that the file to which a damaged one
   * falls back says so too. Does nothing for a client that has not trained.
   */
  async announce (next: Partition): Promise<void> {
    const progress = this.#progress
    if (progress === undefined) return
    await this.#write(progress, { ...next })
    await this.#write(progress, { ...next })
  }

  #isWhole (): void {
    this.#lacking = []
    this.#whole.resolve()
  }

  /** Takes over state that the federation has and this client missed. */
  async adopt (state: ReadonlyMap<string, Tensor>): Promise<void> {
    this.#committed = new Map([...this.#committed, ...state])
    await this.#c.parameters.restore(this.#committed)
  }

  /** Makes the state durable together with the place in the rounds that it belongs to. */
  async commit (meta: ProgressMeta): Promise<void> {
    await this.#write(meta)
  }

  async #write ({ lacking: _, next: __, ...place }: ProgressMeta, next?: Partition): Promise<void> {
    const pending = [...this.#pending ?? []].map(([name, value]) => [PENDING_PREFIX + name, value] as const)
    const tensors = new Map([...this.#committed, ...pending])
    const spoilt = notFinite(tensors)
    if (spoilt !== undefined) throw new StepOverflowError(spoilt)
    const lacking = this.#lacking.length === 0 ? {} : { lacking: [...this.#lacking] }
    const meta = { ...place, ...lacking, ...(next === undefined ? {} : { next }) }
    await writeProgress(this.#c.path, { meta, tensors })
    this.#progress = meta
  }

  /** Takes a step and returns the state after it. The adapters stay as they are where that is not finite. */
  async #stepped (gradients: ReadonlyMap<string, Tensor | DeviceTensor>, settings: StepSettings): Promise<ReadonlyMap<string, Tensor>> {
    const { optimizer, parameters } = this.#c
    await parameters.step(optimizer, gradients, settings)
    const state = await parameters.state()
    const spoilt = notFinite(state)
    if (spoilt === undefined) return state
    await parameters.restore(this.#committed)
    throw new StepOverflowError(spoilt)
  }
}

/** Returns the name of a tensor with values that are not finite, if there is one. */
function notFinite (tensors: ReadonlyMap<string, Tensor>): string | undefined {
  return [...tensors].find(([, value]) => !isFiniteTensor(value))?.[0]
}

/** Whether values of this name may be below zero: not those of the second moment, nor the count of steps. */
function mayBeNegative (name: string): boolean {
  return !/\.[vt]$/.test(name)
}
