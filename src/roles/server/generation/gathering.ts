/** The longest wait, over the time of the run before it. Half of the sequences in each of two runs in turn would wait for a whole run. */
const MAX_WAIT_SHARE = 0.25

/** Shorter waits end later than they should: timers have whole milliseconds. */
const LEAST_WAIT_MS = 1

/** A sequence that was answered. */
export interface AnsweredSequence {
  readonly id: string
  /** Milliseconds that it took last from its answer to its next request; undefined before there were two. */
  readonly returnMs: number | undefined
}

/**
 * Gathers the next steps of the sequences that a run answered, so that these share the next run too. A run that began with the first one to
 * come back would have few of them, and the others would wait for it: each would get a token in every other run. It waits for those alone
 * who came back soon enough the last time.
 */
export class Gathering {
  readonly #now: () => number
  readonly #awaited = new Set<string>()
  #untilMs = -Infinity
  #wake: () => void = () => {}

  constructor (now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Notes how long a run took, and whom it answered. */
  ran (ms: number, answered: readonly AnsweredSequence[]): void {
    const limitMs = ms * MAX_WAIT_SHARE
    this.#untilMs = this.#now() + limitMs
    this.#awaited.clear()
    if (limitMs < LEAST_WAIT_MS) return
    for (const { id, returnMs } of answered) if (returnMs !== undefined && returnMs <= limitMs) this.#awaited.add(id)
  }

  /** Notes that a sequence is not waited for: it has a request, or was closed. */
  settled (id: string): void {
    if (this.#awaited.delete(id) && this.#awaited.size === 0) this.#wake()
  }

  /** Resolves when all are there that are waited for, or have taken too long. */
  async wait (): Promise<void> {
    const leftMs = this.#untilMs - this.#now()
    if (this.#awaited.size === 0 || leftMs <= 0) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, leftMs)
    this.#wake = resolve
    await promise
    clearTimeout(timer)
    this.#awaited.clear()
  }
}
