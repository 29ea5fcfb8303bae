import { byteCharacters } from '../huggingface-decoder.ts'

/** What may come next in UTF-8: how many bytes the character still has, and the range of the next one. */
interface Place {
  readonly left: number
  readonly low: number
  readonly high: number
}

const START: Place = { left: 0, low: 0, high: 0xff }
const ONE: Place = { left: 1, low: 0x80, high: 0xbf }
const TWO: Place = { left: 2, low: 0x80, high: 0xbf }
const THREE: Place = { left: 3, low: 0x80, high: 0xbf }
const LATER = [START, ONE, TWO] as const

/** First bytes of characters that the next byte must not be any of: overlong ones, surrogates, and those above U+10FFFF. RFC 3629. */
const NARROW: ReadonlyMap<number, Place> = new Map([
  [0xe0, { left: 2, low: 0xa0, high: 0xbf }],
  [0xed, { left: 2, low: 0x80, high: 0x9f }],
  [0xf0, { left: 3, low: 0x90, high: 0xbf }],
  [0xf4, { left: 3, low: 0x80, high: 0x8f }]
])

/**
 * Says which tokens go on with a text as UTF-8. The library takes bytes for characters that are none, which decode as several replacement
 * characters: a string would be longer than its schema has it.
 */
export class Utf8Tokens {
  readonly #bytes: ReadonlyArray<readonly number[]>
  readonly #masks = new Map<Place, Int32Array>()

  /** Takes the bytes of each token, as `byteVocabulary` writes them. */
  constructor (vocabulary: readonly string[]) {
    this.#bytes = vocabulary.map((token) => [...token].map((letter) => byteCharacters.get(letter)!))
  }

  /** The place of an empty text. */
  get start (): Place { return START }

  /** Returns the place after one more token, which has to be allowed there. */
  after (place: Place, id: number): Place {
    return placeAfter(place, this.#bytes[id] ?? []) ?? START
  }

  /** Clears the bits of a mask whose tokens cannot follow. */
  restrict (mask: Int32Array, place: Place): void {
    const allowed = this.#maskOf(place)
    for (let i = 0; i < mask.length; i++) mask[i]! &= allowed[i] ?? 0
  }

  #maskOf (place: Place): Int32Array {
    let mask = this.#masks.get(place)
    if (mask === undefined) {
      mask = new Int32Array(Math.ceil(this.#bytes.length / 32))
      for (const [id, bytes] of this.#bytes.entries()) if (placeAfter(place, bytes) !== undefined) mask[id >>> 5]! |= 1 << (id & 31)
      this.#masks.set(place, mask)
    }
    return mask
  }
}

/** Returns the place after some bytes; undefined where they are no UTF-8 there. */
function placeAfter (place: Place, bytes: readonly number[]): Place | undefined {
  let at: Place | undefined = place
  for (const byte of bytes) {
    at = at.left === 0 ? firstByte(byte) : byte >= at.low && byte <= at.high ? LATER[at.left - 1] : undefined
    if (at === undefined) return undefined
  }
  return at
}

function firstByte (byte: number): Place | undefined {
  if (byte < 0x80) return START
  if (byte < 0xc2 || byte > 0xf4) return undefined
  return NARROW.get(byte) ?? (byte < 0xe0 ? ONE : byte < 0xf0 ? TWO : THREE)
}
