import { z } from 'zod'
import { asFileError, MidspanError } from '../../errors.ts'

/**
 * The control protocol: HTTP over a Unix socket. `POST /v1/<operation>` with a JSON object as its parameters is answered with
 * one JSON object a line, each an event of the operation; a line with the one key `error` is the last. Hanging up stops the operation.
 */
export const CONTROL_PREFIX = '/v1/'

/** Parameters are names, numbers and prompts. */
export const MAX_PARAMETER_BYTES = 4 * 2 ** 20

const errorLineSchema = z.object({ error: z.object({ code: z.string(), message: z.string(), next: z.string().optional() }) })

export type ErrorLine = z.output<typeof errorLineSchema>

/** An error that the daemon answered in place of a result. */
export class DaemonError extends MidspanError {}

/** Returns what the caller is told of an error: the words that are meant for people, and no others; of a defect, where the log is. */
export function errorLine (error: unknown, log: string): ErrorLine {
  const told = error instanceof MidspanError ? error : asFileError(error)
  if (told === undefined)
    return {
      error: { code: 'E_INTERNAL', message: 'the daemon failed by a defect of its own', next: `its log says where: ${log}; report it` }
    }
  const next = told.next ?? (needsStack(told) ? `${log} says where this peer was at work; report it` : undefined)
  return { error: { code: told.code, message: told.message, ...(next === undefined ? {} : { next }) } }
}

/** Codes of errors that no input of a user's and no peer should lead to; E_INTERNAL is what a server says of its own defects. */
const DEFECTS: ReadonlySet<string> = new Set(['E_DEVICE', 'E_GRAPH', 'E_STOP', 'E_INTERNAL'])

/** Whether an error comes from a defect, of Midspan's or of a server's, so that its stack belongs in the log. */
export function needsStack (error: unknown): boolean {
  if (error instanceof MidspanError) return DEFECTS.has(error.code)
  return asFileError(error) === undefined
}

/** Whether a line is the error that ends an answer. */
export function isErrorLine (value: unknown): value is ErrorLine {
  return errorLineSchema.safeParse(value).success
}
