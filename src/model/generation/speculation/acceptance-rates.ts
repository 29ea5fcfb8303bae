import type { Draft, DraftSource } from './lookup-drafter.ts'
import { MAX_MATCH_TOKENS } from './ngram-index.ts'

/**
 * The share of drafted tokens that a small chat model accepted, by the length of the match before them, 1 to MAX_MATCH_TOKENS; of the
 * map's, by their place in the draft: where estimates begin.
 */
const FIRST_RATES: Readonly<Record<DraftSource, readonly number[]>> = {
  text: [0.2, 0.4, 0.5, 0.6, 0.7],
  history: [0.2, 0.4, 0.5, 0.6, 0.7],
  map: [0.3, 0.3, 0.3, 0.3, 0.3]
}

/** The number of drafted tokens that FIRST_RATES count as. */
const FIRST_WEIGHT = 4

/** What an outcome counts for after the next one of its kind: estimates follow the last fifty outcomes or so. */
const DECAY = 0.98

interface Tally {
  accepted: number
  judged: number
}

/** Estimates the probability that drafted tokens are accepted, by their source and by the length of the match before them. */
export class AcceptanceRates {
  readonly #tallies = new Map<string, Tally>()

  /** Returns for each token of a draft the probability that it is accepted if those before it are. */
  of ({ tokens, source, matched }: Draft): number[] {
    return tokens.map((_, i) => {
      const { accepted, judged } = this.#tally(source, matched + i)
      return accepted / judged
    })
  }

  /** Notes that the first `accepted` tokens of a draft of which `sent` were sent were accepted. */
  judge ({ source, matched }: Draft, sent: number, accepted: number): void {
    for (let i = 0; i < Math.min(sent, accepted + 1); i++) {
      const tally = this.#tally(source, matched + i)
      tally.accepted = DECAY * tally.accepted + Number(i < accepted)
      tally.judged = DECAY * tally.judged + 1
    }
  }

  /** An accepted token makes the match before the next one longer. */
  #tally (source: DraftSource, matched: number): Tally {
    const length = Math.min(matched, MAX_MATCH_TOKENS)
    const key = `${source} ${length}`
    let tally = this.#tallies.get(key)
    if (tally === undefined) {
      tally = { accepted: FIRST_WEIGHT * FIRST_RATES[source][length - 1]!, judged: FIRST_WEIGHT }
      this.#tallies.set(key, tally)
    }
    return tally
  }
}
