/** Tokens of a match at most. Longer matches are no better a sign than this many, and each length takes an entry a token. */
export const MAX_MATCH_TOKENS = 5

/** Stands between two texts. It is no token: ids have 21 bits. */
const BOUNDARY = 2 ** 32 - 1

/** Table entries for each token that the index holds: one for every length of a match, with room that keeps collisions few. */
const ENTRIES_PER_TOKEN = 8

/** A place at which tokens occurred before. */
export interface Match {
  /** The number of tokens that occurred before, 1 to MAX_MATCH_TOKENS. */
  readonly length: number
  /** The position of the token that followed them. */
  readonly next: number
}

/**
 * Finds where the last tokens of a text occurred before among the tokens that it was given, the latest occurrence of the longest match. It
 * holds the last `capacity` tokens, and its memory does not grow: of two token groups with equal hashes, the later one is found.
 */
export class NgramIndex {
  /** A ring of tokens: the token at a position is at the position's remainder. */
  readonly #tokens: Uint32Array
  /** Positions that follow a group of tokens, by the group's hash; 0 where there is none. */
  readonly #next: Uint32Array
  #length = 0

  /** `capacity` is rounded up to a power of two. */
  constructor (capacity: number) {
    const tokens = 2 ** Math.ceil(Math.log2(Math.max(capacity, MAX_MATCH_TOKENS + 1)))
    this.#tokens = new Uint32Array(tokens)
    this.#next = new Uint32Array(ENTRIES_PER_TOKEN * tokens)
  }

  /** The number of tokens and boundaries that were added. */
  get length (): number { return this.#length }

  /** Adds the next token of a text. */
  add (token: number): void {
    this.#put(token)
  }

  /** Ends a text: no match goes across, and no continuation. */
  endText (): void {
    this.#put(BOUNDARY)
  }

  /** Finds the longest run of last tokens of `text` that occurred before and was followed by a token; undefined where there is none. */
  find (text: ArrayLike<number>): Match | undefined {
    for (let length = Math.min(MAX_MATCH_TOKENS, text.length); length > 0; length--) {
      const at = (i: number): number => text[text.length - length + i]!
      const next = this.#next[this.#slot(length, at)]!
      if (next >= length && this.#holds(next - length) && this.#equal(next - length, length, at)) return { length, next }
    }
    return undefined
  }

  /** Returns up to `count` tokens from a position on, up to the end of their text. */
  from (position: number, count: number): number[] {
    const tokens: number[] = []
    for (let at = position; tokens.length < count && at < this.#length && this.#at(at) !== BOUNDARY; at++) tokens.push(this.#at(at))
    return tokens
  }

  #put (token: number): void {
    const end = this.#length
    const longest = token === BOUNDARY ? 0 : Math.min(MAX_MATCH_TOKENS, end)
    for (let length = 1; length <= longest; length++) {
      if (this.#at(end - length) === BOUNDARY) break
      this.#next[this.#slot(length, (i) => this.#at(end - length + i))] = end
    }
    this.#tokens[end % this.#tokens.length] = token
    this.#length++
  }

  #at (position: number): number {
    return this.#tokens[position % this.#tokens.length]!
  }

  #holds (position: number): boolean {
    return position >= this.#length - this.#tokens.length
  }

  #equal (position: number, length: number, token: (i: number) => number): boolean {
    for (let i = 0; i < length; i++) if (this.#at(position + i) !== token(i)) return false
    return true
  }

  /** Returns the table's place for a group of tokens (FNV-1a over words, mixed as MurmurHash3 ends). */
  #slot (length: number, token: (i: number) => number): number {
    let hash = 0x811c9dc5 ^ length
    for (let i = 0; i < length; i++) hash = Math.imul(hash ^ token(i), 0x01000193)
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    return ((hash ^ (hash >>> 16)) >>> 0) % this.#next.length
  }
}
