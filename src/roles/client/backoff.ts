import { setTimeout as delay } from 'node:timers/promises'

const FIRST_DELAY_MS = 200
/** Often enough that a server that comes back is found within a few seconds. */
const GREATEST_DELAY_MS = 5_000

/** Growing pauses between attempts, each shortened at random by up to a half so that clients do not come back all at once. */
export class Backoff {
  #delayMs = FIRST_DELAY_MS
  readonly #random: () => number

  constructor (random: () => number = Math.random) {
    this.#random = random
  }

  async wait (signal: AbortSignal): Promise<void> {
    const delayMs = this.#delayMs * (1 - this.#random() / 2)
    this.#delayMs = Math.min(this.#delayMs * 2, GREATEST_DELAY_MS)
    await delay(delayMs, undefined, { signal })
  }

  reset (): void {
    this.#delayMs = FIRST_DELAY_MS
  }
}
