import { OutputFormatError } from './errors.ts'
import { keptSchema, type JsonSchema } from './json-schema.ts'

/** The form that a text has to keep to. */
export type OutputFormat =
  /** A JSON value that a JSON Schema describes. */
  | { readonly kind: 'json', readonly schema: JsonSchema }
  | CallsFormat

/** Calls of tools between `<tool_call>` tags, as Qwen2.5, Qwen3 and models with Hermes' template write them. */
export interface CallsFormat {
  readonly kind: 'calls'
  readonly choice: ToolChoice
  readonly tools: readonly CallableTool[]
}

/** Whether tools may be called, at least one has to be, or one call of the tool of a name. */
export type ToolChoice = 'auto' | 'required' | { readonly name: string }

export interface CallableTool {
  readonly name: string
  /** A JSON Schema of the arguments; any object unless given. */
  readonly parameters?: JsonSchema | undefined
  /** Whether the arguments are kept to the schema where the model is free to call. */
  readonly strict?: boolean | undefined
}

const ANY_OBJECT: JsonSchema = { type: 'object' }

const OPENING = '<tool_call>'

/**
 * Returns calls of tools as a structural tag of xgrammar. Arguments are kept to their schema where a tool is strict, and where it has to be
 * called. Throws OutputFormatError.
 */
export function structuralTagOf (format: CallsFormat): object {
  return { type: 'structural_tag', format: callsOf(format) }
}

function callsOf ({ choice, tools }: CallsFormat): object {
  const name = typeof choice === 'object' ? choice.name : undefined
  const callable = name === undefined ? tools : tools.filter((tool) => tool.name === name)
  if (callable.length === 0)
    throw new OutputFormatError(name === undefined ? 'there are no tools to call' : `there is no tool ${JSON.stringify(name)} to call`)
  const tags = callable.map(({ name, parameters = ANY_OBJECT, strict = false }) => ({
    type: 'tag',
    begin: `${OPENING}\n{"name": ${JSON.stringify(name)}, "arguments": `,
    content: { type: 'json_schema', json_schema: keptSchema(strict || choice !== 'auto' ? parameters : ANY_OBJECT, { isAmongText: choice === 'auto' }) },
    end: '}\n</tool_call>'
  }))
  if (choice === 'auto') return { type: 'triggered_tags', triggers: [OPENING], tags }
  return { type: 'tags_with_separator', tags, separator: '\n', at_least_one: true, stop_after_first: name !== undefined }
}
