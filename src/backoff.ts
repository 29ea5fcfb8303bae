import { setTimeout as delay } from 'node:timers/promises'

export interface BackoffOptions {
  /** The first pause. Each later one is twice as long as the one before. */
  readonly firstMs: number
  /** The longest pause. */
  readonly greatestMs: number
  /** Uniform in [0, 1). */
  readonly random?: () => number
}

/** Growing pauses between tries, each shortened at random by up to a half, so that many peers do not come back all at once. */
export class Backoff {
  readonly #options: BackoffOptions
  #failures = 0

  constructor (options: BackoffOptions) {
    this.#options = options
  }

  /** Pauses since the last success. */
  get failures (): number { return this.#failures }

  /** Counts a failure and returns the pause in milliseconds before the next try, at least `atLeastMs` before it is shortened. */
  next (atLeastMs = 0): number {
    const { firstMs, greatestMs, random = Math.random } = this.#options
    const pauseMs = Math.max(Math.min(firstMs * 2 ** this.#failures, greatestMs), atLeastMs)
    this.#failures++
    return pauseMs * (1 - random() / 2)
  }

  /** Counts a failure and waits. Throws the signal's reason. */
  async wait (signal: AbortSignal, atLeastMs = 0): Promise<void> {
    await delay(this.next(atLeastMs), undefined, { signal })
  }

  /** Starts again with the first pause, after a success. */
  reset (): void {
    this.#failures = 0
  }
}
