import { z } from 'zod'
import { readSnapshot, writeSnapshot } from '../../../model/checkpoint/snapshot.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import type { Optimizer, StepSettings } from '../../../model/training/optimizer.ts'
import { initialGate } from '../../../model/training/own-stream.ts'
import { Parameters, stateNames } from '../../../model/training/parameters.ts'
import { float32, int32, isFiniteTensor, type Tensor } from '../../../tensor.ts'
import { ProgressError } from './progress.ts'

/** The name of the gate among named tensors. */
export const GATE = 'gate'

/** Steps taken, of what is to be trained anew. */
const STEPS_NONE = int32([1], [0])

/** Marks a step that was taken but that the federation may not have counted. */
const PENDING_PREFIX = 'pending/'

const metaSchema = z.object({
  /** The federation that it was trained in. */
  federation: z.string(),
  /** The round that a pending step is of. */
  pendingRound: z.int().min(0).optional()
})

export interface WithheldGateComponents {
  readonly device: Device
  readonly optimizer: Optimizer
  /** The numbers of a hidden state. */
  readonly hidden: number
  /** The file that it is kept in. */
  readonly path: string
  /** Names the federation. */
  readonly federation: string
}

interface Pending {
  readonly round: number
  readonly state: ReadonlyMap<string, Tensor>
}

/**
 * How much of what the middle adds at the last token that was sent goes to the withheld tokens after it: one number a channel, [hidden],
 * the client's own, trained with its blocks. It never leaves. As with the client's own blocks, a step is prepared before the client hands
 * in its work, and kept or dropped when it hears whether the work counted.
 */
export class WithheldGate {
  readonly #c: WithheldGateComponents
  readonly #parameters: Parameters
  #committed: ReadonlyMap<string, Tensor>
  #pending: Pending | undefined
  #wasTrained: boolean

  private constructor (
    components: WithheldGateComponents,
    parameters: Parameters,
    committed: ReadonlyMap<string, Tensor>,
    pending: Pending | undefined,
    wasTrained: boolean
  ) {
    this.#c = components
    this.#parameters = parameters
    this.#committed = committed
    this.#pending = pending
    this.#wasTrained = wasTrained
  }

  /**
   * Opens the gate as it was kept, or as training starts where there is no file. The device frees it when it is closed. Throws
   * ProgressError for a file that is of something else.
   */
  static async open (components: WithheldGateComponents): Promise<WithheldGate> {
    const { device, hidden, path, federation } = components
    const parameters = await Parameters.create(device, new Map([[GATE, await device.upload(initialGate(hidden))]]))
    const saved = await readSnapshot(path)
    if (saved === undefined) return new WithheldGate(components, parameters, await parameters.state(), undefined, false)
    const meta = metaSchema.safeParse(saved.meta)
    if (meta.data?.federation !== federation || ![...saved.tensors.values()].every(isFiniteTensor))
      throw new ProgressError(`${path} is not of this federation`, 'restore it from a copy, or remove it to have the numbers learnt anew')
    try {
      await parameters.restore(saved.tensors)
    } catch (error) {
      throw new ProgressError(`${path}: ${(error as Error).message}`, 'restore it from a copy, or remove it to have the numbers learnt anew')
    }
    const { pendingRound } = meta.data
    const pending = new Map(stateNames(GATE).flatMap((name) => {
      const value = saved.tensors.get(PENDING_PREFIX + name)
      return value === undefined ? [] : [[name, value] as const]
    }))
    return new WithheldGate(
      components,
      parameters,
      await parameters.state(),
      pendingRound === undefined ? undefined : { round: pendingRound, state: pending },
      true
    )
  }

  /** The gate [hidden], with the steps that counted. */
  get value (): Tensor { return this.#committed.get(GATE)! }

  /** Whether there was ever a step. */
  get wasTrained (): boolean { return this.#wasTrained }

  /** Takes a step, and keeps it as one that may not count. A step that is not finite is none. */
  async prepare (round: number, gradients: ReadonlyMap<string, DeviceTensor>, settings: StepSettings): Promise<void> {
    await this.#parameters.restore(this.#committed)
    await this.#parameters.step(this.#c.optimizer, gradients, settings)
    const state = await this.#parameters.state()
    await this.#parameters.restore(this.#committed)
    this.#pending = [...state.values()].every(isFiniteTensor) ? { round, state } : undefined
    await this.#write()
  }

  /** Keeps the step of this round where it counted, and drops any other. */
  async settle (round: number, counted: boolean): Promise<void> {
    const pending = this.#pending
    if (pending === undefined) return
    this.#pending = undefined
    if (counted && pending.round === round) {
      this.#committed = pending.state
      await this.#parameters.restore(pending.state)
    }
    await this.#write()
  }

  /** Goes back to the gate as training starts. */
  async reset (): Promise<void> {
    if (!this.#wasTrained) return
    const { hidden } = this.#c
    const zeros = (): Tensor => float32([hidden], new Float32Array(hidden))
    const [value, m, v, t] = stateNames(GATE)
    this.#pending = undefined
    await this.#parameters.restore(new Map([
      [value!, initialGate(hidden)], [m!, zeros()], [v!, zeros()], [t!, STEPS_NONE]
    ]))
    this.#committed = await this.#parameters.state()
    await this.#write()
  }

  async #write (): Promise<void> {
    const pending = [...this.#pending?.state ?? []].map(([name, value]) => [PENDING_PREFIX + name, value] as const)
    this.#wasTrained = true
    await writeSnapshot(this.#c.path, {
      meta: { federation: this.#c.federation, ...(this.#pending === undefined ? {} : { pendingRound: this.#pending.round }) },
      tensors: new Map([...this.#committed, ...pending])
    })
  }
}
