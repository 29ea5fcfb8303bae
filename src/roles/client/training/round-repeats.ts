import { MidspanError } from '../../../errors.ts'

/** Thrown when a server begins one round so often that its reason can only be what the client sends. */
export class RoundRepeatedError extends MidspanError {
  constructor (round: number, begins: number) {
    super('E_ROUND_REPEATED', `the server began round ${round} ${begins} times`, {
      next: 'ask whoever runs the server why, and train again when it is settled'
    })
  }
}

/**
 * Begins of one round that a client takes part in at once. A round begins again when the connection was lost or somebody else was: a
 * client tries to reconnect up to five times a minute, and a round restarts three times for each client that comes back to it.
 */
export const MAX_BEGINS = 32

/** After each of these one more begin is allowed, so that a round that waits for hours for its participants may begin at each deadline. */
export const BEGIN_EVERY_MS = 60_000

/** At the begin of this number the user is told. */
export const WARN_AT_BEGINS = 8

/**
 * Counts how often a server begins the same round. Each begin costs the client a batch's computation. It gives the server nothing, since
 * released states leave as they left before, so that the limit is there for the client's time and to name a server that tries.
 */
export class RoundRepeats {
  readonly #nowMs: () => number
  #round = -1
  #begins = 0
  #sinceMs = 0

  constructor (nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs
  }

  /** Counts a begin. Returns what the user has to be told, if anything. Throws RoundRepeatedError. */
  count (round: number): string | undefined {
    if (round !== this.#round) {
      this.#round = round
      this.#begins = 0
      this.#sinceMs = this.#nowMs()
    }
    this.#begins++
    const allowed = MAX_BEGINS + Math.floor((this.#nowMs() - this.#sinceMs) / BEGIN_EVERY_MS)
    if (this.#begins > allowed) throw new RoundRepeatedError(round, this.#begins)
    return this.#begins === WARN_AT_BEGINS
      ? `the server began round ${round} ${this.#begins} times; it gets the same released states each time`
      : undefined
  }
}
