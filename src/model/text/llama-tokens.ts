import type { SentencePieceModel } from './sentencepiece/model.ts'
import { controlPieces, SentencePieceEngine } from './sentencepiece-engine.ts'
import { addedTokens, tokenContents, type Json } from './tokenizer-config.ts'

/**
 * Returns the tokens of a `tokenizer.model` as transformers' LlamaTokenizer reads it: BOS before a text unless the configuration says
 * otherwise, control pieces and added tokens recognised in the text.
 */
export function llamaEngine (model: SentencePieceModel, tokenizerConfig: Json, addedTokensFile: Json): SentencePieceEngine {
  const special = controlPieces(model)
  for (const token of Object.values(tokenContents(tokenizerConfig))) {
    const id = model.idOf(token)
    if (id !== undefined) special.set(id, token)
  }
  const written = new Map([...special].map(([id, token]) => [token, [id]]))
  for (const { id, content, special: hidden } of addedTokens(tokenizerConfig, addedTokensFile)) {
    if (model.pieces[id] !== undefined && model.pieces[id].text !== content) continue // the model's own piece wins over a mistaken entry
    written.set(content, [id])
    if (hidden) special.set(id, content)
  }
  const bos = model.idOf(tokenContents(tokenizerConfig).bos_token ?? model.bos)
  const eos = model.idOf(tokenContents(tokenizerConfig).eos_token ?? model.eos)
  return new SentencePieceEngine(model, {
    special,
    written,
    shown: new Map([...written].flatMap(([text, [id]]) => id === undefined || special.has(id) ? [] : [[id, text] as const])),
    before: tokenizerConfig.add_bos_token === false || bos === undefined ? [] : [bos],
    after: tokenizerConfig.add_eos_token !== true || eos === undefined ? [] : [eos],
    prefixEach: tokenizerConfig.legacy !== false
  })
}
