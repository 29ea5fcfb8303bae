/** What a measurement counts for after the next one: estimates follow the last thirty or so. */
const DECAY = 0.97

/** Keeps the slope near 0 until it was measured: it counts as much as one measurement at a distance of half a state. */
const SLOPE_WEIGHT = 0.25

/** A measurement counts as this multiple of what was expected at most: a server that stalled says nothing of the next round. */
const OUTLIER = 4

/** Measurements that are needed before anything is expected. */
const FEWEST = 3

/** Estimates how long a round trip takes by the number of hidden states in it: a line, fitted to the measurements so far. */
export class RoundTimes {
  #count = 0
  #weight = 0
  #x = 0
  #y = 0
  #xx = 0
  #xy = 0

  /** Adds the time of a round trip with this many hidden states. */
  add (states: number, ms: number): void {
    const x = states - 1
    const y = Math.min(ms, OUTLIER * (this.expected(states) ?? Infinity))
    this.#count++
    this.#weight = DECAY * this.#weight + 1
    this.#x = DECAY * this.#x + x
    this.#y = DECAY * this.#y + y
    this.#xx = DECAY * this.#xx + x * x
    this.#xy = DECAY * this.#xy + x * y
  }

  /** Returns the milliseconds that a round trip with this many hidden states is expected to take; undefined at first. */
  expected (states: number): number | undefined {
    if (this.#count < FEWEST) return undefined
    const [x, y] = [this.#x / this.#weight, this.#y / this.#weight]
    const slope = Math.max(0, (this.#xy - this.#x * y) / (this.#xx - this.#x * x + SLOPE_WEIGHT))
    return Math.max(y + slope * (states - 1 - x), Number.MIN_VALUE)
  }
}
