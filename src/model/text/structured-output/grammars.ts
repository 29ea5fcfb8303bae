import type * as xgrammar from '@mlc-ai/web-xgrammar'
import type { CompiledGrammar, GrammarCompiler, GrammarMatcher } from '@mlc-ai/web-xgrammar'
import type { Tokenizer } from '../tokenizer.ts'
import { byteVocabulary } from './byte-vocabulary.ts'
import { OutputFormatError } from './errors.ts'
import { keptSchema } from './json-schema.ts'
import { structuralTagOf, type OutputFormat } from './output-format.ts'
import { Utf8Tokens } from './utf8-tokens.ts'

/** White space that a text may have between two parts of JSON: small models would go on with it for ever. */
const MAX_WHITESPACE = 20

/** What the library says before a message of its own: the place in its sources. */
const FATAL = /\[FATAL\] [^\n]*?:\d+: (?:Check failed: )?([^\n]*)/

/** The letters of control characters but the line end, U+0100 plus their number, in a byte-level vocabulary. */
const CONTROL = /[\u0100-\u0109\u010b-\u011f]/

type Library = typeof xgrammar

/** The last messages of the library, which says why it failed on the console alone. */
let messages = ''

/**
 * Loads xgrammar into this thread, and takes the thread's console. The library is bundled for browsers: it asks for the address of its
 * page, and leaves itself among the global names.
 */
async function loadLibrary (): Promise<Library> {
  const room = globalThis as { location?: { href: string }, xgrammar?: Library }
  for (const name of ['log', 'warn', 'error'] as const)
    console[name] = (...said: unknown[]) => { messages = `${messages}${said.join(' ')}\n`.slice(-4096) }
  room.location ??= { href: import.meta.url }
  await import('@mlc-ai/web-xgrammar')
  if (room.xgrammar === undefined) throw new Error('xgrammar did not load')
  return room.xgrammar
}

/** Texts of one tokenizer that keep to forms. A thread has one of them. */
export class Grammars {
  /** Whether the library failed: it cannot go on then, and the thread ends. */
  hasFailed = false
  /** Which tokens go on with a text as UTF-8. */
  readonly utf8: Utf8Tokens
  readonly #library: Library
  readonly #vocabulary: readonly string[]
  readonly #eosIds: readonly number[]
  #json: Promise<GrammarCompiler> | undefined
  #text: Promise<GrammarCompiler> | undefined

  private constructor (library: Library, vocabulary: readonly string[], eosIds: readonly number[]) {
    this.#library = library
    this.#vocabulary = vocabulary
    this.utf8 = new Utf8Tokens(vocabulary)
    this.#eosIds = eosIds
  }

  /** `size` is the number of logits. Throws TokenizerError, and OutputFormatError where the model has no token that ends a text. */
  static async of (tokenizer: Tokenizer, size: number): Promise<Grammars> {
    if (tokenizer.eosIds.length === 0) throw new OutputFormatError('the model has no token that ends a text, so that no text can be kept to a form')
    return new Grammars(await loadLibrary(), byteVocabulary(tokenizer, size), tokenizer.eosIds)
  }

  /** Begins a text. The caller disposes of what is returned. Throws OutputFormatError. */
  async open (format: OutputFormat): Promise<GrammarMatcher> {
    messages = ''
    const compile = this.#prepared(format)
    try {
      const grammar = await compile()
      const matcher = await this.#library.GrammarMatcher.createGrammarMatcher(grammar)
      grammar.dispose()
      return matcher
    } catch {
      this.hasFailed = true
      throw new OutputFormatError(`the form of the text was refused: ${FATAL.exec(messages)?.[1] ?? 'it is not understood'}`, 'simplify it')
    }
  }

  #prepared (format: OutputFormat): () => Promise<CompiledGrammar> {
    if (format.kind === 'calls') {
      const tag = structuralTagOf(format) as Record<string, unknown>
      return async () => await (await (format.choice === 'auto' ? this.#ofText() : this.#ofJson())).compileStructuralTag(tag)
    }
    const schema = JSON.stringify(keptSchema(format.schema))
    return async () => await (await this.#ofJson()).compileJSONSchema(schema, true, undefined, undefined, true, MAX_WHITESPACE)
  }

  async #ofText (): Promise<GrammarCompiler> {
    return await (this.#text ??= this.#compiler(this.#vocabulary))
  }

  /** Control characters but line ends stand nowhere in JSON, and the library takes some of them in strings of a bounded length. */
  async #ofJson (): Promise<GrammarCompiler> {
    return await (this.#json ??= this.#compiler(this.#vocabulary.map((token) => CONTROL.test(token) ? '' : token)))
  }

  async #compiler (vocabulary: readonly string[]): Promise<GrammarCompiler> {
    const { TokenizerInfo, GrammarCompiler } = this.#library
    const info = await TokenizerInfo.createTokenizerInfo([...vocabulary], 'byte_level', false, vocabulary.length, [...this.#eosIds])
    return await GrammarCompiler.createGrammarCompiler(info)
  }
}
