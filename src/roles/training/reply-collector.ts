/** How long an answer is waited for. Injected, so that tests decide when time passes. */
export interface Timer {
  /** Calls back once after `delayMs`; the returned function cancels. */
  after: (delayMs: number, callback: () => void) => () => void
}

export const systemTimer: Timer = {
  after (delayMs, callback) {
    const handle = setTimeout(callback, delayMs)
    return () => { clearTimeout(handle) }
  }
}

/**
 * One answer from each of a known set of peers. It opens when everyone still expected has answered, or at the deadline; answers
 * after that, second answers and answers from others are declined and change nothing.
 */
export class ReplyCollector<Answer> {
  /** Resolves once, with the answers that came in time, ordered by peer. */
  readonly done: Promise<Map<string, Answer>>
  readonly #expected: Set<string>
  readonly #answers = new Map<string, Answer>()
  #open: ((answers: Map<string, Answer>) => void) | undefined
  readonly #cancel: () => void

  constructor (expected: Iterable<string>, deadlineMs: number, timer: Timer) {
    this.#expected = new Set(expected)
    this.done = new Promise((resolve) => { this.#open = resolve })
    this.#cancel = timer.after(deadlineMs, () => { this.#finish() })
    this.#check()
  }

  /** Whether this peer's answer is still wanted. */
  expects (peer: string): boolean {
    return this.#open !== undefined && this.#expected.has(peer) && !this.#answers.has(peer)
  }

  /** The peers that the barrier waits for. */
  get missing (): string[] {
    return [...this.#expected].filter((peer) => this.expects(peer))
  }

  /** Takes a peer's answer. False when it is not wanted. */
  add (peer: string, value: Answer): boolean {
    if (!this.expects(peer)) return false
    this.#answers.set(peer, value)
    this.#check()
    return true
  }

  /** Stops waiting for a peer that said it will not answer. */
  drop (peer: string): void {
    if (this.expects(peer)) {
      this.#expected.delete(peer)
      this.#check()
    }
  }

  /** Opens at once with what there is. */
  close (): void {
    this.#finish()
  }

  #check (): void {
    if (this.#answers.size === this.#expected.size) this.#finish()
  }

  #finish (): void {
    const open = this.#open
    if (open === undefined) return
    this.#open = undefined
    // The executor of `opened` runs before the timer is set, but an empty set of peers opens before it is assigned.
    queueMicrotask(() => { this.#cancel() })
    open(new Map([...this.#answers].sort(([a], [b]) => a < b ? -1 : 1)))
  }
}
