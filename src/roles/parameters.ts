import type { z } from 'zod'
import { UsageError } from '../errors.ts'

/** Parameters of an operation as its caller sent them. Throws UsageError. */
export function parseParameters<Schema extends z.ZodType> (schema: Schema, params: unknown): z.output<Schema> {
  const parsed = schema.safeParse(params)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new UsageError(`${issue?.path.join('.') ?? 'the request'}: ${issue?.message ?? 'is not valid'}`, 'see --help', parsed.error)
}
