import { Template } from '@huggingface/jinja'
import { shown } from '../../errors.ts'
import { TokenizerError } from './errors.ts'
import type { Json, SpecialTokens } from './tokenizer-config.ts'

/** One turn of a conversation, as chat templates take it. */
export interface ChatMessage {
  readonly role: string
  readonly content: string
}

/** How a model was trained to read a conversation: a Jinja template, as transformers' `apply_chat_template` runs it. */
export class ChatTemplate {
  /** Where the template comes from, for errors. */
  readonly name: string
  /** Whether its text holds the tokens that otherwise stand around a text. */
  readonly holdsSpecialTokens: boolean
  readonly #template: Template

  /** Throws TokenizerError for a template that cannot be parsed. */
  constructor (name: string, source: string, holdsSpecialTokens = true) {
    this.name = name
    this.holdsSpecialTokens = holdsSpecialTokens
    try {
      this.#template = new Template(source)
    } catch (error) {
      throw new TokenizerError(`${name} cannot be read: ${messageOf(error)}`, undefined, error)
    }
  }

  /** Throws TokenizerError where the template refuses the messages. */
  render (messages: readonly ChatMessage[], specialTokens: SpecialTokens, addGenerationPrompt: boolean): string {
    try {
      // Templates test `tools` and `documents` for null as well as for being defined; transformers always gives them.
      return this.#template.render({
        ...specialTokens,
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: addGenerationPrompt,
        tools: null,
        documents: null
      })
    } catch (error) {
      throw new TokenizerError(`${this.name} refuses these messages: ${messageOf(error)}`, undefined, error)
    }
  }
}

/**
 * The chat template of a directory: that of chat_template.jinja, else of tokenizer_config.json, where it is one text or several by name, of
 * which the one named `default` counts.
 */
export function readChatTemplate (jinja: string | undefined, { chat_template: configured }: Json): ChatTemplate | undefined {
  if (jinja !== undefined) return new ChatTemplate('chat_template.jinja', jinja)
  if (typeof configured === 'string') return new ChatTemplate('the chat_template of tokenizer_config.json', configured)
  if (!Array.isArray(configured)) return undefined
  const named = new Map((configured as Array<{ name?: unknown, template?: unknown } | null>).map((entry) => [entry?.name, entry?.template]))
  const template = named.get('default')
  if (typeof template !== 'string')
    throw new TokenizerError(`tokenizer_config.json has no chat_template named default, only ${shown([...named.keys()])}`)
  return new ChatTemplate('the chat_template "default" of tokenizer_config.json', template)
}

function messageOf (error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
