/** How a participant did in a round: replied in time, held the others up, or was left out. */
export type Conduct = 'punctual' | 'lagged' | 'missed'

/** Rounds that a peer sits out after its second fault in a row; each further fault doubles them. */
const FIRST_PENALTY_ROUNDS = 1

/** The longest time that a peer sits out: even one that failed for a whole night is tried again. */
const MAX_PENALTY_ROUNDS = 64

/** Faults that are remembered of one peer: more would only delay its rehabilitation. */
const MAX_FAULTS = 8

interface PeerRecord {
  /** Rounds that the peer missed or held up, less the rounds in which it replied in time since. */
  readonly faults: number
  /** The first round that it may take part in. */
  readonly until: number
}

/**
 * Remembers who misses or holds up rounds. A first fault costs nothing, since connections do break. From the second in a row on the peer
 * sits out 1, 2, 4, … rounds, up to 64, and each round in which it replies in time takes one fault back.
 */
export class Attendance {
  readonly #records = new Map<string, PeerRecord>()

  /** Notes how a peer did in a round. Returns the number of rounds that it sits out after it. */
  record (peer: string, round: number, conduct: Conduct): number {
    const before = this.#records.get(peer)?.faults ?? 0
    const faults = conduct === 'punctual' ? Math.max(0, before - 1) : Math.min(MAX_FAULTS, before + 1)
    if (faults === 0) {
      this.#records.delete(peer)
      return 0
    }
    const sitsOut = conduct === 'punctual' || faults < 2 ? 0 : Math.min(MAX_PENALTY_ROUNDS, FIRST_PENALTY_ROUNDS * 2 ** (faults - 2))
    this.#records.set(peer, { faults, until: round + 1 + sitsOut })
    return sitsOut
  }

  /** The number of rounds, this one included, that a peer still sits out. */
  sitsOut (peer: string, round: number): number {
    return Math.max(0, (this.#records.get(peer)?.until ?? 0) - round)
  }

  /**
   * Those who may take part in a round. Where they are fewer than `needed`, those with the fewest rounds left to sit out come back early,
   * so that nobody is made to wait for the sake of nobody.
   */
  eligible (peers: readonly string[], round: number, needed: number): string[] {
    const ordered = [...peers].sort((a, b) => this.sitsOut(a, round) - this.sitsOut(b, round) || (a < b ? -1 : 1))
    return ordered.filter((peer, index) => index < needed || this.sitsOut(peer, round) === 0).sort()
  }

  /** Forgets a peer that has no place in the federation any more. */
  forget (peer: string): void {
    this.#records.delete(peer)
  }
}

/** The share of the deadline above which a participant that is much slower than the others holds them up. */
const LAG_SHARE = 0.5

/** A participant that is this many times slower than the median one is much slower than the others. */
const LAG_FACTOR = 2

/**
 * The participants of a round that held the others up: the round waited for them for more than half of the deadline, and for more than
 * twice as long as for the median participant. Where everybody is slow, nobody lags.
 */
export function laggards (waitedMs: ReadonlyMap<string, number>, deadlineMs: number): Set<string> {
  const ordered = [...waitedMs.values()].sort((a, b) => a - b)
  const median = ordered[Math.floor((ordered.length - 1) / 2)] ?? 0
  return new Set(
    [...waitedMs].filter(([, waited]) => waited > LAG_SHARE * deadlineMs && waited > LAG_FACTOR * median).map(([peer]) => peer)
  )
}
