import { join } from 'node:path'
import { listFiles, readCompanion, readJsonObject } from '../checkpoint/directory.ts'
import { ModelDirectoryError } from '../checkpoint/errors.ts'
import { readChatTemplate, type ChatTemplate } from './chat-template.ts'
import type { TokenEngine } from './engine.ts'
import { TokenizerError } from './errors.ts'
import { huggingFaceEngine } from './huggingface-engine.ts'
import type { Json } from './tokenizer-config.ts'
import { Tokenizer } from './tokenizer.ts'

/** Loads the tokenizer of a Hugging Face directory. Throws TokenizerError, naming the file, for what is missing or broken. */
export async function loadTokenizer (dir: string): Promise<Tokenizer> {
  const files = await DirectoryFiles.list(dir)
  const [tokenizerConfig = {}, config = {}, generationConfig = {}] = await Promise.all(
    ['tokenizer_config.json', 'config.json', 'generation_config.json'].map(async (name) => await files.json(name))
  )
  const { engine, builtIn } = await openEngine(dir, files, tokenizerConfig, config)
  const jinja = await files.bytes('chat_template.jinja')
  return new Tokenizer(engine, {
    tokenizerConfig,
    config,
    generationConfig,
    chatTemplate: readChatTemplate(jinja?.toString(), tokenizerConfig) ?? builtIn
  })
}

interface Opened {
  readonly engine: TokenEngine
  /** The chat template that the model's tokenizer has in its code. */
  readonly builtIn?: ChatTemplate
}

async function openEngine (dir: string, files: DirectoryFiles, tokenizerConfig: Json, config: Json): Promise<Opened> {
  const tokenizer = await files.json('tokenizer.json')
  if (tokenizer !== undefined) {
    try {
      return { engine: huggingFaceEngine(tokenizer, tokenizerConfig) }
    } catch (error) {
      throw new TokenizerError(
        `${join(dir, 'tokenizer.json')} cannot be used: ${error instanceof Error ? error.message : String(error)}`,
        undefined,
        error
      )
    }
  }
  const version = chatGlmVersion(tokenizerConfig, config)
  const name = version === 1 ? 'ice_text.model' : 'tokenizer.model'
  const bytes = await files.bytes(name)
  if (bytes === undefined)
    throw new TokenizerError(`${dir} has no tokenizer.json and no ${name}`, 'download the tokenizer beside the weights')
  const addedTokens = version === undefined ? await files.json('added_tokens.json') ?? {} : {}
  // Most directories have a tokenizer.json, and the threads that read them need not load what reads SentencePiece.
  const { openSentencePiece } = await import('./sentencepiece-tokenizer.ts')
  return openSentencePiece({ bytes, path: join(dir, name), version, tokenizerConfig, config, addedTokens })
}

/**
 * Returns which ChatGLM a directory holds, if any. The first has a configuration of its own; the second and third have the same, and differ
 * in the tokens of the roles, which only the third has: it is taken for the third unless it is named otherwise.
 */
function chatGlmVersion (tokenizerConfig: Json, config: Json): 1 | 2 | 3 | undefined {
  if (config.model_type !== 'chatglm') return undefined
  if (config.padded_vocab_size === undefined) return 1
  const names = [config._name_or_path, tokenizerConfig.name_or_path].map(String).join(' ').toLowerCase()
  return /chatglm2|codegeex2/.test(names) ? 2 : 3
}

/** Reads the files of a directory by their names; undefined for what is not there. Throws TokenizerError. */
class DirectoryFiles {
  readonly #path: string
  readonly #present: ReadonlySet<string>

  private constructor (path: string, present: ReadonlySet<string>) {
    this.#path = path
    this.#present = present
  }

  static async list (path: string): Promise<DirectoryFiles> {
    return new DirectoryFiles(path, new Set(await named(listFiles(path))))
  }

  async bytes (name: string): Promise<Buffer | undefined> {
    return this.#present.has(name) ? await named(readCompanion(join(this.#path, name))) : undefined
  }

  async json (name: string): Promise<Json | undefined> {
    return this.#present.has(name) ? await named(readJsonObject(join(this.#path, name))) : undefined
  }
}

async function named<T> (reading: Promise<T>): Promise<T> {
  return await reading.catch((error: unknown) => {
    throw error instanceof ModelDirectoryError ? new TokenizerError(error.message, error.next, error) : error
  })
}
