import { isShallow } from '../../api/json.ts'
import { shown } from '../../errors.ts'
import { TokenizerError } from './errors.ts'
import { renderTemplate } from './jinja/interpreter.ts'
import { parseTemplate, type Node } from './jinja/source.ts'
import { Text, type Mark } from './jinja/text.ts'
import { Dict, Float, List, type Value } from './jinja/values.ts'
import { withinTime } from './time-limit.ts'
import type { Json, SpecialTokens } from './tokenizer-config.ts'

/** A value of JSON. */
export type JsonValue = unknown

/** A call of a tool that an assistant asked for. */
export interface ToolCall {
  readonly id?: string | undefined
  readonly type: 'function'
  /** The arguments are a text of JSON; templates get what it says. */
  readonly function: { readonly name: string, readonly arguments: string }
}

/** One turn of a conversation, as chat templates take it. */
export interface ChatMessage {
  readonly role: string
  readonly content: string
  /** What the assistant thought before it answered. */
  readonly reasoning_content?: string
  /** Who speaks, where several have one role. */
  readonly name?: string
  readonly tool_calls?: readonly ToolCall[]
  /** The call that a message of the role tool answers. */
  readonly tool_call_id?: string
}

/** A conversation as a template wrote it. Positions are in UTF-16 units. */
export interface RenderedChat {
  readonly text: string
  /** Which parts of the text were copied from which field of which message. */
  readonly marks: readonly Mark[]
  /** The parts [start, end) that the template itself marks as written by the assistant. */
  readonly generated: ReadonlyArray<readonly [number, number]>
}

/** How long a template may take to read or to write one conversation. Every published template needs milliseconds. */
const TIMEOUT_MS = 10_000

/** Signs of templates whose models write calls in other ways than as JSON between tags. */
const OTHER_TOOL_CALLS = /<arg_key>|<function=|<parameter=/

/** A longer template is none: the longest published ones have a tenth of it. */
const MAX_SOURCE_CHARACTERS = 512 * 1024

/** How a model was trained to read a conversation: a Jinja template, as transformers' `apply_chat_template` runs it. */
export class ChatTemplate {
  /** Where the template comes from, for errors. */
  readonly name: string
  /** Whether its text holds the tokens that otherwise stand around a text. */
  readonly holdsSpecialTokens: boolean
  /** Whether a model writes a call of a tool as `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as far as the template says. */
  readonly writesToolCallTags: boolean
  readonly #template: Node

  /** Throws TokenizerError for a template that cannot be parsed. */
  constructor (name: string, source: string, holdsSpecialTokens = true) {
    this.name = name
    this.holdsSpecialTokens = holdsSpecialTokens
    this.writesToolCallTags = source.includes('<tool_call>') && !OTHER_TOOL_CALLS.test(source)
    if (source.length > MAX_SOURCE_CHARACTERS) throw new TokenizerError(`${name} has more than ${MAX_SOURCE_CHARACTERS} characters`)
    try {
      this.#template = withinTime(TIMEOUT_MS, () => parseTemplate(source))
    } catch (error) {
      throw new TokenizerError(`${name} cannot be read: ${messageOf(error)}`, undefined, error)
    }
  }

  /** Writes a conversation. Throws TokenizerError where the template refuses the messages, or takes too long. */
  render (
    messages: readonly ChatMessage[],
    specialTokens: SpecialTokens,
    addGenerationPrompt: boolean,
    tools?: readonly JsonValue[]
  ): string {
    return this.renderMarked(messages, specialTokens, addGenerationPrompt, tools).text
  }

  /** Writes a conversation and tells where each message went. Throws as `render` does. */
  renderMarked (
    messages: readonly ChatMessage[],
    specialTokens: SpecialTokens,
    addGenerationPrompt: boolean,
    tools?: readonly JsonValue[]
  ): RenderedChat {
    const tokens = Object.entries(specialTokens).map(([name, token]) => [name, new Text(token)] as const)
    // Templates test `tools` and `documents` for null as well as for being defined; transformers always gives them.
    const variables: Record<string, Value> = {
      ...Object.fromEntries(tokens),
      messages: new List(messages.map(messageValue)),
      add_generation_prompt: addGenerationPrompt,
      tools: tools === undefined ? null : jsonValue(tools),
      documents: null
    }
    try {
      const { text, generated } = withinTime(TIMEOUT_MS, () => renderTemplate(this.#template, variables, new Date()))
      return { text: text.value, marks: text.marks, generated }
    } catch (error) {
      throw new TokenizerError(`${this.name} refuses these messages: ${messageOf(error)}`, undefined, error)
    }
  }
}

/** Returns a message for the template. Every field but the role is marked, so that its place in the text is known. */
function messageValue (message: ChatMessage, i: number): Dict {
  const { tool_calls: calls, ...texts } = message
  const fields = Object.entries(texts).filter((field): field is [string, string] => typeof field[1] === 'string')
  const entries = fields.flatMap(([field, value]): Array<[string, Value]> => {
    const text = field === 'role' ? new Text(value) : Text.from(value, { message: i, field })
    // Templates such as that of gpt-oss read a thought under another name, and transformers gives it under both.
    return field === 'reasoning_content' ? [['thinking', text], [field, text]] : [[field, text]]
  })
  return new Dict(new Map(calls === undefined ? entries : [...entries, ['tool_calls', jsonValue(calls.map(readArguments))]]))
}

/** Returns a call whose arguments are what their text says, where it is JSON of some depth: templates write them as JSON themselves. */
function readArguments ({ function: { name, arguments: text }, ...rest }: ToolCall): JsonValue {
  const asGiven = { ...rest, function: { name, arguments: text } }
  try {
    const value = JSON.parse(text) as JsonValue
    return isShallow(value) ? { ...rest, function: { name, arguments: value } } : asGiven
  } catch {
    return asGiven
  }
}

/** Returns a value of JSON for a template. A field that is undefined is absent. */
function jsonValue (value: JsonValue): Value {
  if (typeof value === 'string') return new Text(value)
  if (typeof value === 'number') return Number.isInteger(value) ? value : new Float(value)
  if (typeof value === 'boolean' || value === null || value === undefined) return value ?? null
  if (Array.isArray(value)) return new List(value.map(jsonValue))
  const fields = Object.entries(value).filter(([, field]) => field !== undefined)
  return new Dict(new Map(fields.map(([name, field]) => [name, jsonValue(field)])))
}

/**
 * Returns the chat template of a directory: that of chat_template.jinja, else of tokenizer_config.json, where it is one text or several by
 * name, of which the one named `default` counts.
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
