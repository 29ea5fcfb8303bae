import { withheldTokens, WordStatistics, wordTokens, type WithholdRule } from '../privacy/withholding.ts'
import { tokenTexts } from './token-places.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Marks tokens by rules for words, and counts them. */
export class WordMarker {
  readonly #tokenizer: Tokenizer
  readonly #rules: readonly WithholdRule[]
  readonly #statistics = new WordStatistics()
  #tokens = 0
  #words = 0
  #withheld = 0

  constructor (tokenizer: Tokenizer, rules: readonly WithholdRule[]) {
    this.#tokenizer = tokenizer
    this.#rules = rules
  }

  /** Counts the words of a text: what is rare or a name follows from all texts. */
  learn (ids: Int32Array): void {
    this.#statistics.add(wordTexts([...ids], this.#tokenizer).join(''))
  }

  /** Returns 1 for each token that holds a piece of a word that the rules withhold, 0 for the others. */
  mark (ids: Int32Array): Uint8Array {
    const texts = wordTexts([...ids], this.#tokenizer)
    const marks = Uint8Array.from(withheldTokens(texts, this.#rules, this.#statistics), Number)
    this.#tokens += ids.length
    this.#words += wordTokens(texts).filter(Boolean).length
    this.#withheld += marks.reduce((sum, mark) => sum + mark, 0)
    return marks
  }

  /** Tokens that were marked or not, those among them that hold a piece of any word, and those that are withheld. */
  get totals (): { readonly tokens: number, readonly words: number, readonly withheld: number } {
    return { tokens: this.#tokens, words: this.#words, withheld: this.#withheld }
  }
}

const specialIds = new WeakMap<Tokenizer, Map<number, boolean>>()

/** Returns the text of each token to find words in: special tokens are no words, and words on either side of one are apart. */
export function wordTexts (ids: readonly number[], tokenizer: Tokenizer): string[] {
  const special = specialIds.get(tokenizer) ?? new Map<number, boolean>()
  specialIds.set(tokenizer, special)
  const isSpecial = (id: number): boolean => {
    const known = special.get(id) ?? tokenizer.isSpecial(id)
    special.set(id, known)
    return known
  }
  return tokenTexts(ids, tokenizer).map((text, i) => isSpecial(ids[i]!) ? '\n' : text)
}
