/** Lines of one kind about one peer or address that are written within a window. */
const MAX_LINES_PER_SUBJECT = 3

/** Lines of one kind that are written within a window, whomever they are about: subjects cost a stranger nothing. */
const MAX_LINES_PER_KIND = 20

const WINDOW_MS = 60_000

/** Kinds and subjects that are counted within a window; a line beyond them is left out. */
const MAX_TRACKED = 4096

/**
 * Decides which lines of a log are written, so that nobody can fill a disk by doing one thing again and again. A line has a kind (its
 * message) and a subject (the peer or the address that it is about).
 */
export class LogLimit {
  readonly #now: () => number
  #sinceMs: number
  #lines = new Map<string, number>()
  #leftOut = new Map<string, number>()

  constructor (now: () => number = () => performance.now()) {
    this.#now = now
    this.#sinceMs = now()
  }

  /** Counts a line. Returns whether it is to be written. */
  allows (kind: string, subject: string): boolean {
    const isAllowed = this.#count(`${kind}\n${subject}`, MAX_LINES_PER_SUBJECT) && this.#count(kind, MAX_LINES_PER_KIND)
    if (!isAllowed) this.#leftOut.set(kind, (this.#leftOut.get(kind) ?? 0) + 1)
    return isAllowed
  }

  /** Ends the window where it is over. Returns how many lines of each kind were left out in it. */
  takeLeftOut (): Array<{ readonly kind: string, readonly count: number }> {
    if (this.#now() - this.#sinceMs < WINDOW_MS) return []
    const leftOut = [...this.#leftOut].map(([kind, count]) => ({ kind, count }))
    this.#sinceMs = this.#now()
    this.#lines = new Map()
    this.#leftOut = new Map()
    return leftOut
  }

  #count (key: string, most: number): boolean {
    const count = (this.#lines.get(key) ?? 0) + 1
    if (count === 1 && this.#lines.size >= MAX_TRACKED) return false
    this.#lines.set(key, count)
    return count <= most
  }
}
