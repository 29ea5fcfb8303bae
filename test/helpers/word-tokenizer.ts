import { readChatTemplate } from '../../src/model/text/chat-template.ts'
import { huggingFaceEngine } from '../../src/model/text/huggingface-engine.ts'
import { Tokenizer } from '../../src/model/text/tokenizer.ts'

type Json = Readonly<Record<string, unknown>>

/** A tokenizer of whole words, the first three of which are special; enough for what does not depend on the vocabulary. */
export function wordTokenizer (
  words: readonly string[],
  tokenizerConfig: Json = {},
  { postProcessor = null, ...configs }: { postProcessor?: unknown, config?: Json, generationConfig?: Json } = {}
): Tokenizer {
  const engine = huggingFaceEngine({
    version: '1.0',
    added_tokens: words.slice(0, 3).map((content, id) => ({
      id,
      content,
      special: true,
      normalized: false,
      single_word: false,
      lstrip: false,
      rstrip: false
    })),
    normalizer: null,
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: postProcessor,
    decoder: null,
    model: { type: 'WordLevel', vocab: Object.fromEntries(words.map((word, id) => [word, id])), unk_token: '<unk>' }
  }, tokenizerConfig)
  return new Tokenizer(engine, { tokenizerConfig, ...configs, chatTemplate: readChatTemplate(undefined, tokenizerConfig) })
}
