import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import type { TokenEngine } from './engine.ts'

/** What is used of the library's class, whose published declarations do not resolve under Node's module rules. */
interface Library {
  encode: (text: string, options: { add_special_tokens: boolean }) => { ids: number[] }
  decode: (ids: number[], options: { skip_special_tokens: boolean }) => string
  token_to_id: (token: string) => number | undefined
}

const Library = HuggingFaceTokenizer as unknown as new (tokenizer: object, config: object) => Library

/**
 * The engine of a parsed tokenizer.json. Texts and ids are those of the Python `tokenizers` library, with two differences when decoding
 * byte tokens: bytes that are no UTF-8 become U+FFFD one by one rather than in whole runs, and U+FEFF at the start of a run is dropped.
 * Throws the library's errors.
 */
export function huggingFaceEngine (tokenizer: object, tokenizerConfig: object = {}): TokenEngine {
  const library = new Library(tokenizer, tokenizerConfig)
  return {
    encode: (text, addSpecialTokens) => library.encode(text, { add_special_tokens: addSpecialTokens }).ids,
    decode: (ids, skipSpecialTokens) => ids.length === 0 ? '' : library.decode([...ids], { skip_special_tokens: skipSpecialTokens }),
    idOf: (token) => library.token_to_id(token)
  }
}
