import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { DecodeStream } from './decode-stream.ts'
import { TokenizerError } from './errors.ts'

/** One turn of a conversation, as chat templates take it. */
export interface ChatMessage {
  readonly role: string
  readonly content: string
}

/** The special tokens that chat templates may name. */
const specialTokenNames = ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token'] as const

/** What is used of the library's class, whose published declarations do not resolve under Node's module rules. */
interface TokenEngine {
  encode: (text: string, options: { add_special_tokens: boolean }) => { ids: number[] }
  decode: (ids: number[], options: { skip_special_tokens: boolean }) => string
  token_to_id: (token: string) => number | undefined
}

const Engine = HuggingFaceTokenizer as unknown as new (tokenizer: object, config: object) => TokenEngine

type Json = Readonly<Record<string, unknown>>

/**
 * A model's tokenizer with its chat template. Texts and ids are those of the Python `tokenizers` library, with two differences when decoding
 * byte tokens: bytes that are no UTF-8 become U+FFFD one by one rather than in whole runs, and U+FEFF at the start of a run is dropped.
 */
export class Tokenizer {
  /** The id that begins a sequence, if the model has one. `encode` adds it where tokenizer.json says so. */
  readonly bosId: number | undefined
  /** The id that ends a document in training data, if the model has one. */
  readonly eosId: number | undefined
  /** The ids at which generation stops. */
  readonly eosIds: readonly number[]
  readonly #tokenizer: TokenEngine
  readonly #specialTokens: Readonly<Record<string, string>>
  readonly #template: Template | undefined

  /** From the parsed tokenizer.json, tokenizer_config.json, config.json and generation_config.json. Throws TokenizerError for a broken chat template. */
  constructor (tokenizer: Json, tokenizerConfig: Json = {}, config: Json = {}, generationConfig: Json = {}) {
    this.#tokenizer = new Engine(tokenizer, tokenizerConfig)
    this.#specialTokens = Object.fromEntries(specialTokenNames.flatMap(name => {
      const content = tokenContent(tokenizerConfig[name])
      return content === undefined ? [] : [[name, content]]
    }))
    const known = (name: 'bos' | 'eos'): number | undefined => {
      const token = this.#specialTokens[`${name}_token`]
      return (token === undefined ? undefined : this.#tokenizer.token_to_id(token)) ?? idsOf(config[`${name}_token_id`])[0] ?? idsOf(generationConfig[`${name}_token_id`])[0]
    }
    this.bosId = known('bos')
    this.eosId = known('eos')
    const stops = [generationConfig.eos_token_id, config.eos_token_id, this.eosId].map(idsOf)
    this.eosIds = stops.find(ids => ids.length > 0) ?? []
    this.#template = parseTemplate(tokenizerConfig.chat_template)
  }

  get hasChatTemplate (): boolean {
    return this.#template !== undefined
  }

  /** Token ids; with those that tokenizer.json puts around a text (such as BOS) unless `addSpecialTokens` is false. */
  encode (text: string, { addSpecialTokens = true }: { addSpecialTokens?: boolean } = {}): number[] {
    return this.#tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids
  }

  /** The text of these ids, without special tokens unless `skipSpecialTokens` is false. */
  decode (ids: readonly number[], { skipSpecialTokens = true }: { skipSpecialTokens?: boolean } = {}): string {
    return ids.length === 0 ? '' : this.#tokenizer.decode([...ids], { skip_special_tokens: skipSpecialTokens })
  }

  /** Decodes ids as they are generated. `after` are the prompt's ids, which the text continues. */
  createDecodeStream (after: readonly number[] = []): DecodeStream {
    return new DecodeStream(ids => this.decode(ids), after)
  }

  /**
   * Writes a conversation as the model was trained to read it. The text holds its own special tokens: encode it with `addSpecialTokens: false`.
   * Throws TokenizerError when the model has no chat template, or the template refuses the messages.
   */
  applyChatTemplate (messages: readonly ChatMessage[], { addGenerationPrompt = false }: { addGenerationPrompt?: boolean } = {}): string {
    if (this.#template === undefined) throw new TokenizerError('this model has no chat template', 'send plain text, or choose a model trained for chat')
    try {
      return this.#template.render({ ...this.#specialTokens, messages: messages.map(message => ({ ...message })), add_generation_prompt: addGenerationPrompt })
    } catch (error) {
      throw new TokenizerError(`the chat template refuses these messages: ${error instanceof Error ? error.message : String(error)}`, undefined, error)
    }
  }
}

/** Loads the tokenizer of a Hugging Face directory. Throws TokenizerError, naming the file, for what is missing or broken. */
export async function loadTokenizer (dir: string): Promise<Tokenizer> {
  const tokenizer = await readJson(join(dir, 'tokenizer.json'))
  if (tokenizer === undefined) throw new TokenizerError(`${dir} has no tokenizer.json`, 'a sentencepiece model must be converted: load it with transformers and save_pretrained()')
  const [tokenizerConfig = {}, config, generationConfig] = await Promise.all(['tokenizer_config.json', 'config.json', 'generation_config.json'].map(async name => await readJson(join(dir, name))))
  const template = await readText(join(dir, 'chat_template.jinja'))
  try {
    return new Tokenizer(tokenizer, template === undefined ? tokenizerConfig : { ...tokenizerConfig, chat_template: template }, config, generationConfig)
  } catch (error) {
    if (error instanceof TokenizerError) throw error
    throw new TokenizerError(`${join(dir, 'tokenizer.json')} cannot be used: ${error instanceof Error ? error.message : String(error)}`, undefined, error)
  }
}

async function readText (path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

async function readJson (path: string): Promise<Json | undefined> {
  const text = await readText(path)
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new TokenizerError(`${path} is not valid JSON`, undefined, error)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new TokenizerError(`${path} does not hold a JSON object`)
  return value as Json
}

/** tokenizer_config.json writes a special token as a string or as an object around it. */
function tokenContent (token: unknown): string | undefined {
  if (typeof token === 'string') return token
  const content: unknown = (token as { content?: unknown } | null | undefined)?.content
  return typeof content === 'string' ? content : undefined
}

/** Configurations write one id, several, or null. */
function idsOf (value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter((id): id is number => Number.isSafeInteger(id))
}

/** A template, or the one named `default` of several. */
function parseTemplate (value: unknown): Template | undefined {
  const named = Array.isArray(value) ? (value as Array<{ name?: unknown, template?: unknown }>).find(({ name }) => name === 'default')?.template : value
  if (typeof named !== 'string') return undefined
  try {
    return new Template(named)
  } catch (error) {
    throw new TokenizerError(`the chat template cannot be read: ${error instanceof Error ? error.message : String(error)}`, undefined, error)
  }
}
