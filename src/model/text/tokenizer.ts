import type { ChatMessage, ChatTemplate, JsonValue, RenderedChat } from './chat-template.ts'
import { DecodeStream } from './decode-stream.ts'
import type { TokenEngine } from './engine.ts'
import { TokenizerError } from './errors.ts'
import { idsOf, tokenContents, type Json, type SpecialTokens } from './tokenizer-config.ts'

/** What a directory says about its tokens: parsed tokenizer_config.json, config.json and generation_config.json, and the chat template. */
export interface TokenizerSettings {
  readonly tokenizerConfig?: Json
  readonly config?: Json
  readonly generationConfig?: Json
  readonly chatTemplate?: ChatTemplate | undefined
}

/** A model's tokenizer with its special tokens and chat template. */
export class Tokenizer {
  /** The id that begins a sequence, if the model has one. `encode` adds it where the model does. */
  readonly bosId: number | undefined
  /** The id that ends a document in training data, if the model has one. */
  readonly eosId: number | undefined
  /** The ids at which generation stops. */
  readonly eosIds: readonly number[]
  /**
   * True for a prefix language model, which reads a whole context before it writes: `encode` gives a context with the tokens that close it,
   * and an answer follows, encoded with `addSpecialTokens: false`.
   */
  readonly answersContexts: boolean
  readonly #engine: TokenEngine
  readonly #specialTokens: SpecialTokens
  readonly #template: ChatTemplate | undefined
  #generationPrompt: string | undefined
  #closesAnswers: boolean | undefined

  constructor (engine: TokenEngine, { tokenizerConfig = {}, config = {}, generationConfig = {}, chatTemplate }: TokenizerSettings = {}) {
    this.answersContexts = engine.answersContexts === true
    this.#engine = engine
    this.#template = chatTemplate
    this.#specialTokens = {
      ...(engine.bosToken === undefined ? {} : { bos_token: engine.bosToken }),
      ...(engine.eosToken === undefined ? {} : { eos_token: engine.eosToken }),
      ...tokenContents(tokenizerConfig)
    }
    const known = (name: 'bos' | 'eos'): number | undefined => {
      const token = this.#specialTokens[`${name}_token`]
      return (token === undefined ? undefined : engine.idOf(token)) ?? idsOf(config[`${name}_token_id`])[0] ??
        idsOf(generationConfig[`${name}_token_id`])[0]
    }
    this.bosId = known('bos')
    this.eosId = known('eos')
    const stops = [generationConfig.eos_token_id, config.eos_token_id, this.eosId].map(idsOf).find((ids) => ids.length > 0) ?? []
    this.eosIds = [...new Set([...stops, ...(engine.stopTokens ?? []).flatMap((token) => idsOf(engine.idOf(token)))])]
  }

  get hasChatTemplate (): boolean {
    return this.#template !== undefined
  }

  /** Returns token ids; with those that the model puts around a text (such as BOS) unless `addSpecialTokens` is false. */
  encode (text: string, { addSpecialTokens = true }: { addSpecialTokens?: boolean } = {}): number[] {
    return this.#engine.encode(text, addSpecialTokens)
  }

  /** Returns the text of these ids, without special tokens unless `skipSpecialTokens` is false. */
  decode (ids: readonly number[], { skipSpecialTokens = true }: { skipSpecialTokens?: boolean } = {}): string {
    return this.#engine.decode(ids, skipSpecialTokens)
  }

  /** Returns the text that each of these ids has where it follows the token `before`, special tokens included. */
  tokenTexts (ids: readonly number[], before: number): string[] {
    const first = this.decode([before], { skipSpecialTokens: false })
    return ids.map((id) => {
      const both = this.decode([before, id], { skipSpecialTokens: false })
      return both.startsWith(first) ? both.slice(first.length) : this.decode([id], { skipSpecialTokens: false })
    })
  }

  /** Returns how the vocabulary writes a token, such as `Ġthe`, `▁the` or `<0x0A>`; undefined where it has no such token. */
  nameOf (id: number): string | undefined {
    return this.#engine.nameOf(id)
  }

  /** Whether the text of some tokens is the text of each, one after another. */
  get appendsText (): boolean { return this.#engine.appendsText !== false }

  /** Decodes ids as they are generated. `after` are the prompt's ids, which the text continues. */
  createDecodeStream (after: readonly number[] = []): DecodeStream {
    return new DecodeStream((ids) => this.decode(ids), after, this.appendsText)
  }

  /**
   * Writes a conversation as the model was trained to read it.
   * Throws TokenizerError when the model has no chat template, or the template refuses the messages.
   */
  applyChatTemplate (messages: readonly ChatMessage[], { addGenerationPrompt = false }: { addGenerationPrompt?: boolean } = {}): string {
    return this.#chatTemplate().render(messages, this.#specialTokens, addGenerationPrompt)
  }

  /** Writes a conversation and tells where each message went. Throws as `applyChatTemplate` does. */
  renderChat (messages: readonly ChatMessage[], { addGenerationPrompt = false }: { addGenerationPrompt?: boolean } = {}): RenderedChat {
    return this.#chatTemplate().renderMarked(messages, this.#specialTokens, addGenerationPrompt)
  }

  /** Returns the token ids of a conversation that the chat template wrote. */
  encodeRendered (text: string): number[] {
    return this.encode(text, { addSpecialTokens: !this.#chatTemplate().holdsSpecialTokens })
  }

  /** Returns the token ids of a conversation, written by the chat template. Throws as `applyChatTemplate` does. */
  encodeChat (messages: readonly ChatMessage[], options: { addGenerationPrompt?: boolean } = {}): number[] {
    return this.encodeRendered(this.applyChatTemplate(messages, options))
  }

  /**
   * Returns the token ids of a conversation up to where the assistant speaks, which may ask for these tools. Throws TokenizerError also
   * where the template does not tell of tools, or its model writes calls in another way than as JSON between `<tool_call>` tags.
   */
  encodeChatWithTools (messages: readonly ChatMessage[], tools: readonly JsonValue[]): number[] {
    const template = this.#chatTemplate()
    const text = template.render(messages, this.#specialTokens, true, tools)
    const next = 'leave the tools out, or choose a model that is trained to use tools'
    if (text === template.render(messages, this.#specialTokens, true)) throw new TokenizerError(`${template.name} does not tell of tools`, next)
    if (!template.writesToolCallTags) throw new TokenizerError(`${template.name} has calls of tools in a form that is not read`, next)
    return this.encodeRendered(text)
  }

  /** Returns whether generation stops at a token. */
  isStop (id: number): boolean {
    return id === this.eosId || this.eosIds.includes(id)
  }

  /** Returns whether a token is no part of the text. */
  isSpecial (id: number): boolean {
    return this.decode([id]) === '' && this.decode([id], { skipSpecialTokens: false }).trim() !== ''
  }

  /** What the chat template writes to have the assistant speak; empty where it writes nothing. */
  get generationPrompt (): string {
    this.#generationPrompt ??= this.#findGenerationPrompt()
    return this.#generationPrompt
  }

  /** Whether the chat template ends an answer that is followed by a question with a token at which generation stops. */
  get closesAnswers (): boolean {
    this.#closesAnswers ??= this.#findClosesAnswers()
    return this.#closesAnswers
  }

  #findGenerationPrompt (): string {
    try {
      const messages = [{ role: 'user', content: 'a' }]
      const [without, withPrompt] = [false, true].map((addGenerationPrompt) => this.applyChatTemplate(messages, { addGenerationPrompt }))
      return withPrompt!.startsWith(without!) ? withPrompt!.slice(without!.length) : ''
    } catch (error) {
      if (error instanceof TokenizerError) return ''
      throw error
    }
  }

  #findClosesAnswers (): boolean {
    const turn = (role: string, content: string): ChatMessage => ({ role, content })
    try {
      const { text, marks } = this.renderChat([turn('user', 'a'), turn('assistant', 'b'), turn('user', 'c'), turn('assistant', 'd')])
      const [answer, question] = [1, 2].map((message) => marks.find(({ source }) => source.message === message))
      if (answer === undefined || question === undefined) return true
      const between = this.encode(text.slice(answer.end, question.start), { addSpecialTokens: false })
      const first = between.find((id) => this.decode([id], { skipSpecialTokens: false }).trim() !== '')
      return between.some((id) => this.isStop(id)) || (first !== undefined && this.isSpecial(first))
    } catch (error) {
      if (error instanceof TokenizerError) return true
      throw error
    }
  }

  #chatTemplate (): ChatTemplate {
    if (this.#template === undefined)
      throw new TokenizerError('this model has no chat template', 'send plain text, or choose a model trained for chat')
    return this.#template
  }
}
