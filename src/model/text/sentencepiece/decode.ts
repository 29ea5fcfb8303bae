import { isUtf8 } from 'node:buffer'

const REPLACEMENT = '\ufffd'

/** Returns the length of a character in UTF-8 by its first byte. */
export function characterBytes (first: number): number {
  if (first < 0x80) return 1
  return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4
}

/** Returns the text of these bytes; each byte that belongs to no character becomes U+FFFD by itself, as in SentencePiece. */
export function decodeBytes (bytes: readonly number[]): string {
  let text = ''
  for (let at = 0; at < bytes.length;) {
    const character = Buffer.from(bytes.slice(at, at + characterBytes(bytes[at]!)))
    const whole = isUtf8(character)
    text += whole ? character.toString() : REPLACEMENT
    at += whole ? character.length : 1
  }
  return text
}
