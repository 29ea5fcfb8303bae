import { MidspanError } from '../../../errors.ts'
import type { ModelWeights } from '../../../model/layers/weights.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkMagnitude, expectTensor } from '../../../protocols/wire/hidden-states.ts'
import { withSignal } from '../../../protocols/wire/wait.ts'
import type { Tensor } from '../../../tensor.ts'
import type { AdapterShape } from '../../training/aggregation/strategy.ts'

/** How long a client waits for the adapters of a worker: the coordinator sends them as soon as it hears of it, and after each round. */
const ARRIVAL_TIMEOUT_MS = 10_000

/** Thrown where a worker has not got the adapters of a round, or none since it was started. */
export class AdaptersMissingError extends MidspanError {
  constructor (round: number) {
    super('E_ADAPTERS_MISSING', `the coordinator has not sent this server the adapters of round ${round}`, {
      next: 'try again when the coordinator is back', retryable: true
    })
  }
}

/** The adapters of a worker's blocks: a copy of the coordinator's, as of some round. They are values alone, and nothing of them is kept. */
export class WorkerAdapters {
  readonly #weights: ModelWeights
  readonly #shapes: ReadonlyMap<string, readonly number[]>
  #changed = Promise.withResolvers<void>()
  #round: number | undefined

  constructor (weights: ModelWeights, shapes: readonly AdapterShape[]) {
    this.#weights = weights
    this.#shapes = new Map(shapes.map(({ name, shape }) => [name, shape]))
  }

  /** Rounds whose step is in them; undefined before a coordinator has sent any, and while they change. */
  get round (): number | undefined { return this.#round }

  /**
   * Resolves when the steps of this many rounds are in them; at once where these blocks have none. A server that was just started has none:
   * it would compute with those that training began with. Throws AdaptersMissingError where they do not come in time.
   */
  async reached (round: number, signal: AbortSignal): Promise<void> {
    const late = AbortSignal.timeout(ARRIVAL_TIMEOUT_MS)
    const until = AbortSignal.any([signal, late])
    try {
      while (this.#shapes.size > 0 && (this.#round === undefined || this.#round < round)) await withSignal(this.#changed.promise, until)
    } catch (error) {
      signal.throwIfAborted()
      throw late.aborted ? new AdaptersMissingError(round) : error
    }
  }

  /** Checks a part of the adapters. Throws BadMessageError. */
  check (names: readonly string[], tensors: readonly Tensor[]): Array<[string, Tensor]> {
    if (names.length !== tensors.length) throw new BadMessageError(`${tensors.length} adapter tensors came with ${names.length} names`)
    return names.map((name, index) => {
      const shape = this.#shapes.get(name)
      if (shape === undefined) throw new BadMessageError('an adapter came that these blocks do not have')
      const value = tensors[index]
      expectTensor(name, value, 'float32', shape)
      checkMagnitude(name, value)
      return [name, value]
    })
  }

  /** Takes over values that were checked, all of them. Throws BadMessageError where some are missing. */
  async take (round: number, values: ReadonlyMap<string, Tensor>): Promise<void> {
    if (values.size !== this.#shapes.size)
      throw new BadMessageError(`${values.size} adapter tensors came: these blocks have ${this.#shapes.size}`)
    this.#round = undefined
    await this.#weights.assignTrained(values)
    this.#round = round
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }
}
