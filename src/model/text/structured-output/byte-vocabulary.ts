import { TokenizerError } from '../errors.ts'
import { byteCharacters } from '../huggingface-decoder.ts'
import type { Tokenizer } from '../tokenizer.ts'

/** The letter of each byte. */
const byteLetters = [...byteCharacters].sort(([, a], [, b]) => a - b).map(([letter]) => letter)

const bytePiece = /^<0x([0-9A-Fa-f]{2})>$/

const utf8 = new TextEncoder()

/**
 * Returns the bytes that each token adds to a text, written as a byte-level vocabulary writes them; an empty text for a token that adds
 * none: special tokens, and ids without a token. `size` is the number of logits. Throws TokenizerError where a token's text depends on
 * those after it.
 */
export function byteVocabulary (tokenizer: Tokenizer, size: number): string[] {
  if (!tokenizer.appendsText)
    throw new TokenizerError('tokens of this model change the text of those before them, so that no text can be kept to a form')
  const before = tokenizer.encode('a', { addSpecialTokens: false }).at(-1)
  if (before === undefined) throw new TokenizerError('the vocabulary has no token for the letter a')
  const first = tokenizer.decode([before])
  return Array.from({ length: size }, (_, id) => {
    const name = tokenizer.nameOf(id)
    if (name === undefined || tokenizer.isStop(id)) return ''
    const both = tokenizer.decode([before, id])
    if (both === first) return ''
    const text = both.startsWith(first) ? both.slice(first.length) : '\ufffd'
    const bytes = text.includes('\ufffd') ? bytesOfName(name) : utf8.encode(text)
    return [...bytes].map((byte) => byteLetters[byte]).join('')
  })
}

/** Returns the bytes of a token that is a part of a character; none where its name does not tell them. */
function bytesOfName (name: string): Uint8Array | readonly number[] {
  const piece = bytePiece.exec(name)
  if (piece !== null) return [Number.parseInt(piece[1]!, 16)]
  const bytes = [...name].map((letter) => byteCharacters.get(letter))
  return bytes.every((byte) => byte !== undefined) ? bytes : []
}
