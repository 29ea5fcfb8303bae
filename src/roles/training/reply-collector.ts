import type { Clock } from './clock.ts'
import type { WaitingTime } from './waiting-time.ts'

/** A timer may fire this much before its time. */
const TIMER_TOLERANCE_MS = 1

/**
 * Collects one reply from each of a known set of peers. It is done when everyone who is still expected has replied. A peer is expected
 * until its part of the round's waiting time is used up. Replies after that, second replies and replies of others are declined and change
 * nothing.
 */
export class ReplyCollector<Reply> {
  /** Resolves once, with the replies that came in time, ordered by peer. */
  readonly done: Promise<Map<string, Reply>>
  readonly #expected: Set<string>
  readonly #replies = new Map<string, Reply>()
  readonly #waiting: WaitingTime
  readonly #clock: Clock
  readonly #startedAtMs: number
  readonly #resolve: (replies: Map<string, Reply>) => void
  #isOpen = true
  #cancelTimer: () => void = () => {}

  constructor (expected: Iterable<string>, waiting: WaitingTime, clock: Clock) {
    this.#expected = new Set(expected)
    this.#waiting = waiting
    this.#clock = clock
    this.#startedAtMs = clock.now()
    const { promise, resolve } = Promise.withResolvers<Map<string, Reply>>()
    this.done = promise
    this.#resolve = resolve
    this.#check()
    this.#startTimer()
  }

  /** Whether this peer's reply is still wanted. */
  expects (peer: string): boolean {
    return this.#isOpen && this.#expected.has(peer) && !this.#replies.has(peer)
  }

  /** The peers whose replies are missing. */
  get missing (): string[] {
    return [...this.#expected].filter((peer) => this.expects(peer))
  }

  /** Takes a peer's reply. Returns false when it is not wanted. */
  add (peer: string, reply: Reply): boolean {
    if (!this.expects(peer)) return false
    this.#waiting.add(peer, this.#elapsedMs)
    this.#replies.set(peer, reply)
    this.#check()
    return true
  }

  /** Stops waiting for a peer that will not reply. */
  drop (peer: string): void {
    if (!this.expects(peer)) return
    this.#waiting.add(peer, this.#elapsedMs)
    this.#expected.delete(peer)
    this.#check()
  }

  /** Ends the wait with the replies that are there. */
  close (): void {
    if (!this.#isOpen) return
    for (const peer of this.missing) this.#waiting.add(peer, this.#elapsedMs)
    this.#finish()
  }

  get #elapsedMs (): number { return this.#clock.now() - this.#startedAtMs }

  #check (): void {
    if (this.#isOpen && this.#replies.size === this.#expected.size) this.#finish()
  }

  #finish (): void {
    this.#isOpen = false
    this.#cancelTimer()
    this.#resolve(new Map([...this.#replies].sort(([a], [b]) => a < b ? -1 : 1)))
  }

  /** Calls back when the first of the missing peers has used up its time. */
  #startTimer (): void {
    if (!this.#isOpen) return
    let leastMs = Infinity
    for (const peer of this.missing) leastMs = Math.min(leastMs, this.#waiting.left(peer))
    this.#cancelTimer = this.#clock.after(Math.max(0, leastMs - this.#elapsedMs), () => { this.#dropLate() })
  }

  #dropLate (): void {
    const elapsedMs = this.#elapsedMs
    for (const peer of this.missing) if (this.#waiting.left(peer) - elapsedMs < TIMER_TOLERANCE_MS) this.drop(peer)
    this.#startTimer()
  }
}
