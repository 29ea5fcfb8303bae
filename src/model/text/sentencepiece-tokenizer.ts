import type { ChatTemplate } from './chat-template.ts'
import type { TokenEngine } from './engine.ts'
import { glmTemplate } from './glm-templates.ts'
import { chatGlm23Engine, chatGlmEngine } from './glm-tokens.ts'
import { llamaEngine } from './llama-tokens.ts'
import { parseModelFile } from './sentencepiece/file.ts'
import { SentencePieceModel } from './sentencepiece/model.ts'
import type { Json } from './tokenizer-config.ts'

export interface SentencePieceFile {
  readonly bytes: Buffer
  /** Where the bytes come from, for errors. */
  readonly path: string
  /** Which ChatGLM the model is, if any. */
  readonly version: 1 | 2 | 3 | undefined
  readonly tokenizerConfig: Json
  readonly config: Json
  /** What added_tokens.json holds. */
  readonly addedTokens: Json
}

/** Opens a model file of SentencePiece, with the chat template that its tokenizer has in its code. Throws TokenizerError. */
export function openSentencePiece (
  { bytes, path, version, tokenizerConfig, config, addedTokens }: SentencePieceFile
): { readonly engine: TokenEngine, readonly builtIn?: ChatTemplate } {
  const file = parseModelFile(bytes, path)
  if (version === 1) return { engine: chatGlmEngine(file, path, tokenizerConfig, config), builtIn: glmTemplate(1) }
  const model = new SentencePieceModel(file, path)
  if (version === undefined) return { engine: llamaEngine(model, tokenizerConfig, addedTokens) }
  return { engine: chatGlm23Engine(model, version), builtIn: glmTemplate(version) }
}
