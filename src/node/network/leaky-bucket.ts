/** How many events may come at once, and then each second. */
export interface EventRate {
  readonly atOnce: number
  readonly perSecond: number
}

/** Counts events against a rate, which may be another one each time. */
export class LeakyBucket {
  #level = 0
  #sinceMs: number

  constructor (nowMs: number) {
    this.#sinceMs = nowMs
  }

  /** How many events are above what had time to drain. */
  level (nowMs: number, { atOnce, perSecond }: EventRate): number {
    // A clock that was set back drains nothing, and fills nothing; what came at a higher rate is not held against a lower one.
    this.#level = Math.max(Math.min(this.#level, atOnce) - Math.max(nowMs - this.#sinceMs, 0) / 1000 * perSecond, 0)
    this.#sinceMs = nowMs
    return this.#level
  }

  /** Milliseconds until another event is allowed; 0 where it is now. */
  waitMs (nowMs: number, rate: EventRate): number {
    return Math.max(this.level(nowMs, rate) + 1 - rate.atOnce, 0) / rate.perSecond * 1000
  }

  add (): void {
    this.#level++
  }

  /** Counts one event. Returns whether it is one too many. */
  overflows (nowMs: number, rate: EventRate): boolean {
    const isTooMany = this.waitMs(nowMs, rate) > 0
    this.add()
    return isTooMany
  }
}
