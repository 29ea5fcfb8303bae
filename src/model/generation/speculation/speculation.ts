import { AcceptanceRates } from './acceptance-rates.ts'
import { draftLength } from './draft-length.ts'
import { LookupDrafter, type Draft } from './lookup-drafter.ts'
import { NgramIndex } from './ngram-index.ts'
import { RoundTimes } from './round-times.ts'

/**
 * Where the tokens come from that are sent before they are known to be next: from nowhere, from the text itself, from the client's texts
 * before it too, or also from a map in place of the middle.
 */
export type SpeculationMode = 'off' | 'lookup' | 'history' | 'map'

/** Drafts this number of tokens with a map in place of the middle, or fewer. */
export type Predict = (count: number) => Promise<readonly number[]>

/** A match of fewer tokens is a worse sign than the map. */
const LEAST_MATCH = 2

/** Tokens that are drafted for one round trip, at most. More are seldom accepted, and each is released and computed. */
export const MAX_DRAFTED_TOKENS = 4

/** Tokens of texts before that are kept in memory: about as many as a day of chatting has. They take 2.3 MB. */
const HISTORY_TOKENS = 2 ** 16

/** Where drafting does not pay, one draft in so many is sent all the same: the network may have changed. */
const TRIED_OF_UNPROFITABLE = 32

/** The tokens of such a draft that are sent: enough to measure what another state costs. */
const TRIED_TOKENS = 2

/** What drafting came to in one text. */
export interface SpeculationStatistics {
  /** Round trips through the middle. */
  roundTrips: number
  /** Tokens that were sent before they were known to be next. */
  drafted: number
  /** Those of them that were next. */
  accepted: number
}

/** What a client learns of drafting from one text to the next: its texts, how good drafts are, and how long round trips take. */
export class Speculation {
  readonly #history = new NgramIndex(HISTORY_TOKENS)
  readonly #rates = new AcceptanceRates()
  readonly #times = new RoundTimes()
  readonly #predictionTimes = new RoundTimes()
  #unprofitable = 0

  /** Begins a text of up to `capacity` tokens. */
  open (mode: SpeculationMode, prompt: readonly number[], capacity: number): TextSpeculation {
    const parts: Parts = {
      rates: this.#rates,
      times: this.#times,
      predictionTimes: this.#predictionTimes,
      predicts: mode === 'map',
      tries: () => ++this.#unprofitable % TRIED_OF_UNPROFITABLE === 0
    }
    if (mode === 'off') return new TextSpeculation(parts, undefined, () => {})
    const remembers = mode !== 'lookup'
    const drafter = new LookupDrafter(capacity, remembers ? this.#history : undefined)
    drafter.add(prompt)
    return new TextSpeculation(parts, drafter, () => {
      if (!remembers) return
      for (const token of drafter.tokens) this.#history.add(token)
      this.#history.endText()
    })
  }
}

/** What became of the drafted tokens of a round trip. */
export interface RoundTrip {
  readonly sent: number
  readonly accepted: number
  readonly ms: number | undefined
}

interface Parts {
  readonly rates: AcceptanceRates
  readonly times: RoundTimes
  /** The time in which the map drafts tokens, by their number. */
  readonly predictionTimes: RoundTimes
  /** Whether the map drafts tokens too. */
  readonly predicts: boolean
  /** Says of a draft that does not pay whether it is sent all the same. */
  readonly tries: () => boolean
}

/** Drafts the tokens of one text. */
export class TextSpeculation {
  readonly statistics: SpeculationStatistics = { roundTrips: 0, drafted: 0, accepted: 0 }
  readonly #parts: Parts
  readonly #drafter: LookupDrafter | undefined
  readonly #remember: () => void
  #draft: Draft | undefined
  #ended = false

  constructor (parts: Parts, drafter: LookupDrafter | undefined, remember: () => void) {
    this.#parts = parts
    this.#drafter = drafter
    this.#remember = remember
  }

  /**
   * Returns the tokens to send after the last one of the text, `room` of them at most, before they are known to be next: those of a lookup,
   * or, where the match is short, those that `predict` drafts.
   */
  async draft (room: number, predict?: Predict): Promise<readonly number[]> {
    const most = Math.min(room, MAX_DRAFTED_TOKENS)
    const found = this.#drafter?.draft(most)
    if (predict !== undefined && this.#parts.predicts && most > 0 && (found?.matched ?? 0) < LEAST_MATCH) {
      const tokens = await this.#predicted(most, predict)
      if (tokens.length > 0) return tokens
    }
    this.#draft = found
    return found === undefined ? [] : found.tokens.slice(0, this.#count(found, 0))
  }

  async #predicted (most: number, predict: Predict): Promise<readonly number[]> {
    const { predictionTimes } = this.#parts
    const draft = (tokens: readonly number[]): Draft => ({ tokens, source: 'map', matched: 1 })
    const eachMs = (predictionTimes.expected(most) ?? 0) / most
    const count = this.#count(draft(Array.from({ length: most }, () => 0)), eachMs)
    if (count === 0) return []
    const startedAtMs = performance.now()
    const tokens = await predict(count)
    if (tokens.length > 0) predictionTimes.add(tokens.length, performance.now() - startedAtMs)
    this.#draft = draft(tokens)
    return tokens
  }

  /** Returns how many tokens of a draft to send, of which each takes a time to draft. */
  #count (draft: Draft, eachMs: number): number {
    const { rates, times, tries } = this.#parts
    const expectedMs = (states: number): number | undefined => {
      const ms = times.expected(states)
      return ms === undefined ? undefined : ms + (states - 1) * eachMs
    }
    const count = draftLength(rates.of(draft), expectedMs)
    return count > 0 ? count : tries() ? Math.min(TRIED_TOKENS, draft.tokens.length) : 0
  }

  /**
   * Notes the tokens that a round trip gave: it had `sent` drafted tokens, of which the first `accepted` were next, and took `ms`
   * milliseconds; `ms` is undefined for a prompt.
   */
  committed (tokens: readonly number[], { sent, accepted, ms }: RoundTrip): void {
    const { rates, times } = this.#parts
    this.statistics.roundTrips++
    this.statistics.drafted += sent
    this.statistics.accepted += accepted
    if (ms !== undefined) times.add(1 + sent, ms)
    if (sent > 0) rates.judge(this.#draft!, sent, accepted)
    this.#drafter?.add(tokens)
  }

  /** Ends the text. Later texts that draft from those before them draft from this one too. */
  end (): void {
    if (!this.#ended) this.#remember()
    this.#ended = true
  }
}
