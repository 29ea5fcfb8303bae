import { getSystemErrorMessage } from 'node:util'

/** A failure with a stable code, so that callers, peers and people can tell it apart without reading its message. */
export interface MidspanErrorOptions {
  /** What went wrong underneath. */
  cause?: unknown
  /** One clause that says what the user can do about it. */
  next?: string | undefined
  /** Whether the failure is known to pass by itself, so that the same work may be tried again. False unless given. */
  retryable?: boolean | undefined
}

/**
 * The base of every error Midspan throws on purpose. Subclasses are small: one class a failure, with its code as a constant.
 * A message says what and why on one line; `next` says what to do.
 */
export class MidspanError extends Error {
  readonly code: string
  readonly next: string | undefined
  readonly retryable: boolean

  constructor (code: string, message: string, options: MidspanErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = new.target.name
    this.code = code
    this.next = options.next
    this.retryable = options.retryable ?? false
  }
}

/**
 * Errors of libp2p and of sockets that say that a connection or stream broke, or could not be made, by name or code. They are about the
 * network alone: another try, on another connection, may succeed.
 */
const CONNECTION_ERRORS: ReadonlySet<unknown> = new Set([
  'ConnectionClosedError', 'ConnectionClosingError', 'ConnectionFailedError', 'DialError', 'MuxerClosedError', 'MuxerUnavailableError',
  'NoValidAddressesError', 'StreamAbortedError', 'StreamClosedError', 'StreamResetError', 'StreamStateError', 'TimeoutError',
  'ECONNABORTED', 'ECONNREFUSED', 'ECONNRESET', 'EHOSTDOWN', 'EHOSTUNREACH', 'EPIPE', 'ENETDOWN', 'ENETRESET', 'ENETUNREACH', 'ENOTCONN',
  'ETIMEDOUT', 'EAI_AGAIN'
])

/** Returns whether an error says that a connection broke or could not be made, and nothing else. */
export function isConnectionError (error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (error instanceof AggregateError) return error.errors.length > 0 && error.errors.every(isConnectionError)
  return CONNECTION_ERRORS.has(error.name) || CONNECTION_ERRORS.has((error as NodeJS.ErrnoException).code)
}

/** Returns whether an error is a mistake in the code: nothing that the world outside does gives one. */
export function isDefect (error: unknown): boolean {
  return error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError || error instanceof SyntaxError
}

/**
 * Returns whether the work that failed may be tried again. That is decided where a failure is born: by `retryable` of a MidspanError, and
 * by name for libp2p's errors. Every other error, such as a full disk or a defect, ends the work.
 */
export function isRetryable (error: unknown): boolean {
  return error instanceof MidspanError ? error.retryable : isConnectionError(error)
}

/** Longer values are cut in messages. */
const SHOWN_CHARACTERS = 120

/** Returns what somebody else wrote, as JSON on one line of bounded length, for a message. */
export function shown (value: unknown): string {
  const text = jsonOf(value)
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS - 3)}...` : text
}

function jsonOf (value: unknown): string {
  try {
    return JSON.stringify(value) ?? 'undefined'
  } catch {
    return `${Array.isArray(value) ? 'an array' : 'an object'} too deep to show` // JSON.parse reads any depth, and this does not
  }
}

/** Thrown when what a user typed, or a file a user named, cannot be used. */
export class UsageError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_USAGE', message, { next, cause })
  }
}

/** What to do about a file or disk that the system refuses, by the system's code (errno(3)). */
const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: 'check the path',
  ENOTDIR: 'check the path',
  EISDIR: 'name a file',
  EEXIST: 'choose another path, or move what is there',
  ENOTEMPTY: 'choose another path, or empty it',
  EACCES: 'check who may use it',
  EPERM: 'check who may use it',
  EROFS: 'choose a place that can be written to',
  ENOSPC: 'free some space',
  EDQUOT: 'free some space',
  EFBIG: 'choose a place for larger files',
  EIO: 'check the disk',
  EBUSY: 'stop what uses it',
  ETXTBSY: 'stop what uses it',
  ELOOP: 'check where its links lead',
  ENXIO: 'name a file',
  EXDEV: 'choose a path on the same disk',
  ESTALE: 'mount it again',
  ENOLCK: 'choose a place on a disk of this machine',
  ENOTSUP: 'choose a place on a disk of this machine',
  EMFILE: 'raise the limit of open files (ulimit -n)',
  ENFILE: 'close what has files open',
  ENAMETOOLONG: 'choose a shorter path'
}

/** Returns the system's refusal of a file or disk, in words for people; undefined for every other error. */
export function asFileError (error: unknown): MidspanError | undefined {
  if (!(error instanceof Error)) return undefined
  const { code, errno, path, syscall } = error as NodeJS.ErrnoException
  const next = code === undefined || !Object.hasOwn(REMEDIES, code) ? undefined : REMEDIES[code]
  if (next === undefined || errno === undefined) return undefined
  return new MidspanError('E_FILE', `${path ?? syscall ?? 'a file'}: ${getSystemErrorMessage(errno)}`, { next, cause: error })
}
