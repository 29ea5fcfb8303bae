import { operations, type GivenParameters } from '../../api/operations.ts'
import { UsageError } from '../../errors.ts'
import { readLines } from '../../model/text/lines.ts'

/** What one line of a file of prompts asks to continue. */
export interface Prompt {
  /** Counted from 1. */
  readonly line: number
  readonly input: Pick<GivenParameters<'generate'>, 'prompt' | 'messages' | 'ids'>
}

const NEXT = 'write {"prompt": "…"}, {"messages": […]} or {"ids": […]}'

/** What a line may have besides is left alone: data sets have columns of their own. */
const lineSchema = operations.generate.parameters.pick({ prompt: true, messages: true, ids: true }).strip()

/**
 * Yields the prompts of a JSONL file, one a line; empty lines have none. Throws UsageError that names the first line of another shape.
 */
export async function * readPrompts (path: string, signal: AbortSignal): AsyncGenerator<Prompt> {
  for await (const found of readLines(path, signal)) {
    if ('reason' in found) throw new UsageError(`${path}: line ${found.line} ${found.reason}`, NEXT)
    if (found.text.trim() !== '') yield { line: found.line, input: inputOf(path, found.line, found.text) }
  }
}

function inputOf (path: string, line: number, text: string): Prompt['input'] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new UsageError(`${path}: line ${line} is not JSON`, NEXT, error)
  }
  const parsed = lineSchema.safeParse(value)
  if (!parsed.success) {
    const { path: field, message } = parsed.error.issues[0]!
    throw new UsageError(`${path}: line ${line}${field.length === 0 ? '' : `: ${field.join('.')}`}: ${message}`, NEXT)
  }
  if (Object.values(parsed.data).filter((input) => input !== undefined).length !== 1)
    throw new UsageError(`${path}: line ${line} has not one of prompt, messages and ids`, NEXT)
  return parsed.data
}
