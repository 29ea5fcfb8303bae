import { MAX_MATCH_TOKENS, NgramIndex } from './ngram-index.ts'

/** Where drafted tokens come from: the text itself, texts before it, or a map in place of the middle. */
export type DraftSource = 'text' | 'history' | 'map'

/** Tokens that may come next. */
export interface Draft {
  readonly tokens: readonly number[]
  readonly source: DraftSource
  /** The number of last tokens of the text that occurred before these tokens; 1 where they come from the map. */
  readonly matched: number
}

/**
 * Drafts the next tokens of one text: what followed its last tokens where these occurred before, in the text (prompt lookup) or in texts
 * before it. The longest match wins, and of two equal ones that in the text.
 */
export class LookupDrafter {
  readonly #tokens: number[] = []
  readonly #own: NgramIndex
  readonly #history: NgramIndex | undefined

  /** `capacity` is the number of tokens that the text can have. `history` holds texts before it. */
  constructor (capacity: number, history?: NgramIndex) {
    this.#own = new NgramIndex(capacity)
    this.#history = history
  }

  /** The tokens of the text so far. */
  get tokens (): readonly number[] { return this.#tokens }

  /** Adds the next tokens of the text. */
  add (tokens: readonly number[]): void {
    for (const token of tokens) {
      this.#tokens.push(token)
      this.#own.add(token)
    }
  }

  /** Returns up to `count` tokens that may come next; undefined where the last token did not occur before. */
  draft (count: number): Draft | undefined {
    if (count < 1) return undefined
    const last = this.#tokens.slice(-MAX_MATCH_TOKENS)
    const [own, before] = [this.#own.find(last), this.#history?.find(last)]
    if (own !== undefined && own.length >= (before?.length ?? 0)) {
      const tokens = this.#own.from(own.next, count)
      // A match that overlaps its continuation goes on in circles, as repetitive text does.
      const period = this.#tokens.length - own.next
      while (tokens.length < count) tokens.push(tokens[tokens.length - period]!)
      return { tokens, source: 'text', matched: own.length }
    }
    if (before === undefined) return undefined
    return { tokens: this.#history!.from(before.next, count), source: 'history', matched: before.length }
  }
}
