import { MidspanError } from '../../../errors.ts'

/** Thrown when a second training is asked for. */
export class TrainingBusyError extends MidspanError {
  constructor () {
    super('E_BUSY', 'this client is training already', { next: 'wait for it, or stop it' })
  }
}

/** Lets one training of a client run at a time. */
export class TrainingLock {
  #current: { readonly signal: AbortSignal, readonly over: Promise<void> } | undefined
  #ended = 0

  /** Whether a training runs. */
  get active (): boolean { return this.#current !== undefined }

  /** Trainings that have ended. */
  get ended (): number { return this.#ended }

  /** Runs a training, after one that was told to stop. Throws TrainingBusyError. */
  async * exclusively<Event> (work: () => AsyncIterable<Event>, signal: AbortSignal): AsyncGenerator<Event> {
    while (this.#current?.signal.aborted === true) await this.#current.over
    if (this.#current !== undefined) throw new TrainingBusyError()
    const { promise: over, resolve } = Promise.withResolvers<void>()
    this.#current = { signal, over }
    try {
      yield * work()
    } finally {
      this.#current = undefined
      this.#ended++
      resolve()
    }
  }
}
