import type { Clock } from '../../../src/roles/training/clock.ts'

interface Alarm {
  readonly atMs: number
  readonly callback: () => void
}

/** A clock whose time passes when a test says so. */
export class FakeClock implements Clock {
  #nowMs = 0
  readonly #alarms = new Set<Alarm>()

  now (): number {
    return this.#nowMs
  }

  after (delayMs: number, callback: () => void): () => void {
    const alarm = { atMs: this.#nowMs + delayMs, callback }
    this.#alarms.add(alarm)
    return () => { this.#alarms.delete(alarm) }
  }

  /** The number of callbacks that are still to come. */
  get pending (): number { return this.#alarms.size }

  /** Lets time pass, with the callbacks that are due, in their order. */
  advance (ms: number): void {
    const untilMs = this.#nowMs + ms
    for (;;) {
      const [next] = [...this.#alarms].filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)
      if (next === undefined) break
      this.#alarms.delete(next)
      this.#nowMs = Math.max(this.#nowMs, next.atMs)
      next.callback()
    }
    this.#nowMs = untilMs
  }
}
