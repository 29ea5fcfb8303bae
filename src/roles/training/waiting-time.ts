/**
 * Counts how long a round has waited for each participant. All replies of one participant in a round share one deadline: it may let the
 * round wait for that long in total, however it spreads its delays over its replies.
 */
export class WaitingTime {
  readonly #deadlineMs: number
  readonly #waitedMs = new Map<string, number>()

  constructor (deadlineMs: number) {
    this.#deadlineMs = deadlineMs
  }

  /** The time in milliseconds that the round has waited for this participant. */
  of (peer: string): number {
    return this.#waitedMs.get(peer) ?? 0
  }

  /** The time in milliseconds that the round still waits for this participant, 0 at least. */
  left (peer: string): number {
    return Math.max(0, this.#deadlineMs - this.of(peer))
  }

  /** Counts a wait for this participant's reply. */
  add (peer: string, waitedMs: number): void {
    this.#waitedMs.set(peer, this.of(peer) + waitedMs)
  }

  /** Gives the whole deadline back to everybody but `causes`, because the passes restart through no fault of theirs. */
  restart (causes: { has: (peer: string) => boolean }): void {
    for (const peer of this.#waitedMs.keys()) if (!causes.has(peer)) this.#waitedMs.delete(peer)
  }
}
