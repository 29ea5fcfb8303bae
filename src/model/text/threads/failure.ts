import { MidspanError } from '../../../errors.ts'
import { DatasetError, TokenizerError } from '../errors.ts'

/** An error as it passes from one thread to another, which would drop all but its message. */
export interface ThreadFailure {
  readonly message: string
  readonly stack: string | undefined
  readonly code: string | undefined
  readonly next: string | undefined
  /** Whether Midspan threw it on purpose. */
  readonly isMidspan: boolean
  /** Of a system's refusal of a file. */
  readonly errno: number | undefined
  readonly path: string | undefined
  readonly syscall: string | undefined
}

export function failureOf (error: unknown): ThreadFailure {
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  const { code, errno, path, syscall } = error as NodeJS.ErrnoException
  const isMidspan = error instanceof MidspanError
  return { message, stack, code, next: isMidspan ? error.next : undefined, isMidspan, errno, path, syscall }
}

/** The error that a failure was made of, with the stack that it had. */
export function errorOf ({ message, stack, code, next, isMidspan, ...system }: ThreadFailure): Error {
  if (isMidspan && code === TOKENIZER) return new TokenizerError(message, next)
  if (isMidspan && code === DATASET) return new DatasetError(message, next)
  if (isMidspan) return new MidspanError(code ?? 'E_INTERNAL', message, { next })
  const error = Object.assign(new Error(message), system, code === undefined ? {} : { code })
  if (stack !== undefined) error.stack = stack
  return error
}

const TOKENIZER = new TokenizerError('').code
const DATASET = new DatasetError('').code
