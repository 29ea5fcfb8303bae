import { readChatTemplate } from '../../src/model/text/chat-template.ts'
import { huggingFaceEngine } from '../../src/model/text/huggingface-engine.ts'
import { Tokenizer } from '../../src/model/text/tokenizer.ts'

/** The characters that stand for bytes in byte-level vocabularies, by their bytes. */
function byteCharacters (): string[] {
  const shown = (byte: number): boolean => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(shown(byte) ? byte : next++))
}

/** A tokenizer with a token for each byte and for each special token, of which the first is the token with id 256. */
export function byteTokenizer (
  special: readonly string[],
  config: Readonly<Record<string, unknown>>,
  eosTokens: readonly string[]
): Tokenizer {
  const engine = huggingFaceEngine({
    version: '1.0',
    added_tokens: special.map((content, i) => ({ id: 256 + i, content, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: Object.fromEntries(byteCharacters().map((character, byte) => [character, byte])), merges: [] }
  }, config)
  return new Tokenizer(engine, {
    tokenizerConfig: config,
    generationConfig: { eos_token_id: eosTokens.map((token) => 256 + special.indexOf(token)) },
    chatTemplate: readChatTemplate(undefined, config)
  })
}
