/** Attempts that are remembered for at most this many peers; the one that was quiet longest is forgotten first. */
const MAX_TRACKED = 4096

/** Allows each key so many attempts in a window of time. Its memory is bounded. */
export class AttemptLimit {
  readonly #most: number
  readonly #windowMs: number
  readonly #now: () => number
  readonly #attempts = new Map<string, { count: number, since: number }>()

  constructor (most: number, windowMs: number, now: () => number = () => performance.now()) {
    this.#most = most
    this.#windowMs = windowMs
    this.#now = now
  }

  /** Counts an attempt and says whether it is within the limit. */
  allow (key: string): boolean {
    const now = this.#now()
    const known = this.#attempts.get(key)
    const current = known !== undefined && now - known.since < this.#windowMs ? known : { count: 0, since: now }
    current.count++
    this.#attempts.delete(key)
    this.#attempts.set(key, current)
    if (this.#attempts.size > MAX_TRACKED) this.#attempts.delete(this.#attempts.keys().next().value as string)
    return current.count <= this.#most
  }
}
