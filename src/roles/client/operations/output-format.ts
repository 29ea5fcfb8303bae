import type { ParametersOf } from '../../../api/operations.ts'
import { UsageError } from '../../../errors.ts'
import type { OutputFormat } from '../../../model/text/structured-output/output-format.ts'

/** Returns the form that a text has to keep to, as an operation was asked; undefined where it is free. Throws UsageError. */
export function outputFormatOf (
  { jsonSchema, tools = [], toolChoice }: Pick<ParametersOf<'generate'>, 'jsonSchema' | 'tools' | 'toolChoice'>
): OutputFormat | undefined {
  if (jsonSchema !== undefined) {
    if (tools.length > 0) throw new UsageError('a text cannot both keep to a JSON Schema and call tools', 'leave one of them out')
    return { kind: 'json', schema: jsonSchema }
  }
  if (toolChoice !== 'auto' && tools.length === 0) throw new UsageError('there are no tools to choose from', 'give tools, or leave the choice out')
  if (toolChoice === 'auto' && tools.every(({ function: { strict } }) => strict !== true)) return undefined
  return {
    kind: 'calls',
    choice: toolChoice,
    tools: tools.map(({ function: { name, parameters, strict } }) => ({ name, parameters, strict: strict ?? false }))
  }
}
