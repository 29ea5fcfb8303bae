import type { Context } from 'hono'
import type { z } from 'zod'
import { RequestError, schemaError } from './errors.ts'

/** A body of more bytes is refused: prompts of any model fit by far. The control socket takes as much. */
export const MAX_BODY_BYTES = 4 * 2 ** 20

/** Reads the JSON object of a request. Throws RequestError that names what is wrong with it. */
export async function readBody<Schema extends z.ZodObject> (context: Context, schema: Schema): Promise<z.output<Schema>> {
  const type = context.req.header('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type !== 'application/json')
    throw new RequestError(415, 'unsupported_media_type', 'the body is not JSON by its Content-Type: send application/json')
  const parsed = schema.safeParse(withoutNulls(parseJson(await context.req.text())))
  if (parsed.success) return parsed.data
  throw schemaError(parsed.error)
}

function parseJson (text: string): unknown {
  try {
    const value = JSON.parse(text) as unknown
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch {
    // Told below.
  }
  throw new RequestError(400, 'invalid_json', 'the body is not a JSON object')
}

/** Returns a request without its fields that are null, and those of its messages: OpenAI's API takes null for absent. */
function withoutNulls (value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const entries = Object.entries(value).filter(([, field]) => field !== null)
  return Object.fromEntries(entries.map(([name, field]) =>
    [name, name === 'messages' && Array.isArray(field) ? field.map(withoutNulls) : field as unknown]))
}
