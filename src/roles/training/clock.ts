/** Tells the time and calls back later. Injected, so that tests decide when time passes. */
export interface Clock {
  /** Milliseconds since some fixed moment; never goes back. */
  now (): number
  /** Calls back once after `delayMs`. The returned function cancels the call. */
  after (delayMs: number, callback: () => void): () => void
}

/** Node's timers take a longer delay for one of 1 ms. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** The clock of this process. A callback beyond 24 days comes early: whoever asked looks at the time and asks again. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after (delayMs, callback) {
    const handle = setTimeout(callback, Math.min(delayMs, MAX_TIMER_MS))
    return () => { clearTimeout(handle) }
  }
}
