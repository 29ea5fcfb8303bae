import type { z } from 'zod'

/** Describes an operation of a daemon: what it is asked with, and what it answers. */
export interface OperationSchema<
  Parameters extends z.ZodObject = z.ZodObject,
  Progress extends Readonly<Record<string, z.ZodObject>> = Readonly<Record<string, z.ZodObject>>,
  Result extends z.ZodObject = z.ZodObject
> {
  /** Says what the operation does, in one sentence. */
  readonly about: string
  /** A strict object: a field that it does not know is an error. */
  readonly parameters: Parameters
  /** The events that may come before the result, by their `type`. */
  readonly progress: Progress
  /** The last event of an operation that ended well. */
  readonly result: Result
}

/** Returns the schema as it is, with its exact type. */
export function operation<
  Parameters extends z.ZodObject,
  const Progress extends Readonly<Record<string, z.ZodObject>>,
  Result extends z.ZodObject
> (schema: OperationSchema<Parameters, Progress, Result>): OperationSchema<Parameters, Progress, Result> {
  return schema
}
