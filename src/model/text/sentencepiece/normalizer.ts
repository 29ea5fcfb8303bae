import type { Charsmap } from './charsmap.ts'
import { characterBytes } from './decode.ts'
import type { Trie } from './trie.ts'

/** What SentencePiece writes for a space. */
export const SPACE_SYMBOL = '\u2581'

const SPACE = 0x20

export interface NormalizerSettings {
  readonly charsmap: Charsmap | undefined
  /** Texts, as bytes, that are left as they are. */
  readonly userDefined: Trie
  readonly addDummyPrefix: boolean
  readonly removeExtraWhitespaces: boolean
  readonly escapeWhitespaces: boolean
  readonly whitespaceAsSuffix: boolean
}

interface Replaced {
  readonly end: number
  readonly bytes: Uint8Array
}

/** Turns text into what SentencePiece segments: characters replaced, spaces made visible (Normalizer::Normalize of SentencePiece). */
export class Normalizer {
  readonly #settings: NormalizerSettings
  readonly #space: Uint8Array

  constructor (settings: NormalizerSettings) {
    this.#settings = settings
    this.#space = utf8(settings.escapeWhitespaces ? SPACE_SYMBOL : ' ')
  }

  /** Normalises a text. `dummyPrefix`: whether the text begins a word, where the model marks that. */
  normalize (text: string, dummyPrefix: boolean): string {
    const { addDummyPrefix, removeExtraWhitespaces, whitespaceAsSuffix } = this.#settings
    const input = utf8(text)
    let from = 0
    if (removeExtraWhitespaces) from = this.#skipSpaces(input)
    if (from === input.length) return ''
    const output: number[] = []
    const mark = dummyPrefix && addDummyPrefix
    if (mark && !whitespaceAsSuffix) output.push(...this.#space)
    let afterSpace = removeExtraWhitespaces
    while (from < input.length) {
      const { end, bytes } = this.#replace(input, from)
      from = end
      let first = 0
      while (afterSpace && bytes[first] === SPACE) first++
      for (let i = first; i < bytes.length; i++) {
        if (bytes[i] === SPACE) output.push(...this.#space)
        else output.push(bytes[i]!)
      }
      if (first < bytes.length) afterSpace = bytes.at(-1) === SPACE
      afterSpace &&= removeExtraWhitespaces
    }
    if (removeExtraWhitespaces) while (this.#endsInSpace(output)) output.length -= this.#space.length
    if (mark && whitespaceAsSuffix) output.push(...this.#space)
    return Buffer.from(output).toString()
  }

  #skipSpaces (input: Uint8Array): number {
    for (let from = 0; from < input.length;) {
      const { end, bytes } = this.#replace(input, from)
      if (bytes.length !== 1 || bytes[0] !== SPACE) return from
      from = end
    }
    return input.length
  }

  /** Returns what stands for the text at `from`: the longest replacement there is, or its one character. */
  #replace (input: Uint8Array, from: number): Replaced {
    const kept = this.#settings.userDefined.longest(input, from)
    if (kept !== undefined) return { end: kept, bytes: input.subarray(from, kept) }
    const mapped = this.#settings.charsmap?.longest(input, from)
    if (mapped !== undefined) return { end: mapped.end, bytes: mapped.replacement }
    const end = from + characterBytes(input[from]!)
    return { end, bytes: input.subarray(from, end) }
  }

  #endsInSpace (output: readonly number[]): boolean {
    return output.length >= this.#space.length && this.#space.every((byte, i) => output[output.length - this.#space.length + i] === byte)
  }
}

/** Encodes as UTF-8; half a surrogate pair becomes U+FFFD. */
export function utf8 (text: string): Uint8Array {
  return new TextEncoder().encode(text)
}
