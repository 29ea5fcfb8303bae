import { TokenizerError } from '../errors.ts'
import type { Tokenizer } from '../tokenizer.ts'

/** What stands for each byte where GPT-2's byte-level vocabularies write it: printable Latin-1 for itself, and others from U+0100 on. */
const byteLetters = lettersOfBytes()
/** The byte that each letter stands for. */
export const bytesOfLetters: ReadonlyMap<string, number> = new Map(byteLetters.map((letter, byte) => [letter, byte]))

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
  const bytes = [...name].map((letter) => bytesOfLetters.get(letter))
  return bytes.every((byte) => byte !== undefined) ? bytes : []
}

function lettersOfBytes (): string[] {
  let others = 0
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    return String.fromCodePoint(isPrintable ? byte : 0x100 + others++)
  })
}
