import { asFileError, MidspanError } from '../../errors.ts'

/**
 * The control protocol: HTTP over a Unix socket. `POST /v1/<operation>` with a JSON object as its parameters is answered with
 * one JSON object a line, each an event of the operation; a line with the one key `error` is the last. Hanging up stops the operation.
 */
export const CONTROL_PREFIX = '/v1/'

/** Parameters are names, numbers and prompts. */
export const MAX_PARAMETER_BYTES = 4 * 2 ** 20

export interface ErrorLine {
  readonly error: { readonly code: string, readonly message: string, readonly next?: string }
}

/** What the daemon answered in place of a result. */
export class DaemonError extends MidspanError {}

/** What the caller is told of an error: the words that are meant for people, and no others. */
export function errorLine (error: unknown): ErrorLine {
  const told = error instanceof MidspanError ? error : asFileError(error)
  if (told === undefined) return { error: { code: 'E_INTERNAL', message: 'the daemon failed; its log says how' } }
  return { error: { code: told.code, message: told.message, ...(told.next === undefined ? {} : { next: told.next }) } }
}

/** Whether a line is the error that ends an answer. */
export function isErrorLine (value: object): value is ErrorLine {
  return 'error' in value && typeof value.error === 'object' && value.error !== null && 'code' in value.error
}
