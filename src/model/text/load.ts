import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { readChatTemplate, type ChatTemplate } from './chat-template.ts'
import type { TokenEngine } from './engine.ts'
import { TokenizerError } from './errors.ts'
import { glmTemplate } from './glm-templates.ts'
import { chatGlm23Engine, chatGlmEngine } from './glm-tokens.ts'
import { huggingFaceEngine } from './huggingface-engine.ts'
import { llamaEngine } from './llama-tokens.ts'
import { parseModelFile } from './sentencepiece/file.ts'
import { SentencePieceModel } from './sentencepiece/model.ts'
import type { Json } from './tokenizer-config.ts'
import { Tokenizer } from './tokenizer.ts'

/** A tokenizer.json of a large vocabulary takes about 20 MB. */
const maxFileBytes = 256 * 1024 * 1024

/** Loads the tokenizer of a Hugging Face directory. Throws TokenizerError, naming the file, for what is missing or broken. */
export async function loadTokenizer (dir: string): Promise<Tokenizer> {
  const [tokenizerConfig = {}, config = {}, generationConfig = {}] = await Promise.all(
    ['tokenizer_config.json', 'config.json', 'generation_config.json'].map(async name => await readJson(join(dir, name))))
  const { engine, builtIn } = await openEngine(dir, chatGlmVersion(tokenizerConfig, config), tokenizerConfig, config)
  const jinja = await readBytes(join(dir, 'chat_template.jinja'))
  return new Tokenizer(engine, { tokenizerConfig, config, generationConfig, chatTemplate: readChatTemplate(jinja?.toString(), tokenizerConfig) ?? builtIn })
}

interface Opened {
  readonly engine: TokenEngine
  /** The chat template that the model's tokenizer has in its code. */
  readonly builtIn?: ChatTemplate
}

async function openEngine (dir: string, version: 1 | 2 | 3 | undefined, tokenizerConfig: Json, config: Json): Promise<Opened> {
  const tokenizerPath = join(dir, 'tokenizer.json')
  const tokenizer = await readJson(tokenizerPath)
  if (tokenizer !== undefined) {
    try {
      return { engine: huggingFaceEngine(tokenizer, tokenizerConfig) }
    } catch (error) {
      throw new TokenizerError(`${tokenizerPath} cannot be used: ${error instanceof Error ? error.message : String(error)}`, undefined, error)
    }
  }
  const path = join(dir, version === 1 ? 'ice_text.model' : 'tokenizer.model')
  const bytes = await readBytes(path)
  if (bytes === undefined) throw new TokenizerError(`${dir} has no tokenizer.json and no ${version === 1 ? 'ice_text.model' : 'tokenizer.model'}`, 'download the tokenizer beside the weights')
  const file = parseModelFile(bytes, path)
  if (version === 1) return { engine: chatGlmEngine(file, path, tokenizerConfig, config), builtIn: glmTemplate(1) }
  const model = new SentencePieceModel(file, path)
  if (version === undefined) return { engine: llamaEngine(model, tokenizerConfig, await readJson(join(dir, 'added_tokens.json')) ?? {}) }
  return { engine: chatGlm23Engine(model, version), builtIn: glmTemplate(version) }
}

/**
 * Which ChatGLM a directory holds, if any. The first has a configuration of its own; the second and third have the same, and differ in the
 * tokens of the roles, which only the third has: it is taken for the third unless it is named otherwise.
 */
function chatGlmVersion (tokenizerConfig: Json, config: Json): 1 | 2 | 3 | undefined {
  if (config.model_type !== 'chatglm') return undefined
  if (config.padded_vocab_size === undefined) return 1
  const names = [config._name_or_path, tokenizerConfig.name_or_path].map(String).join(' ').toLowerCase()
  return /chatglm2|codegeex2/.test(names) ? 2 : 3
}

async function readBytes (path: string): Promise<Buffer | undefined> {
  try {
    const { size } = await stat(path)
    if (size > maxFileBytes) throw new TokenizerError(`${path} has ${size} bytes; at most ${maxFileBytes} are read`)
    return await readFile(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

async function readJson (path: string): Promise<Json | undefined> {
  const bytes = await readBytes(path)
  if (bytes === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(bytes.toString())
  } catch (error) {
    throw new TokenizerError(`${path} is not valid JSON`, undefined, error)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new TokenizerError(`${path} does not hold a JSON object`)
  return value as Json
}
