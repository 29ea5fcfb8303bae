/** A failure with a stable code, so that callers, peers and people can tell it apart without reading its message. */
export interface MidspanErrorOptions {
  /** What went wrong underneath. */
  cause?: unknown
  /** One clause that says what the user can do about it. */
  next?: string
}

/**
 * The base of every error Midspan throws on purpose. Subclasses are small: one class a failure, with its code as a constant.
 * A message says what and why on one line; `next` says what to do.
 */
export class MidspanError extends Error {
  readonly code: string
  readonly next: string | undefined

  constructor (code: string, message: string, options: MidspanErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = new.target.name
    this.code = code
    this.next = options.next
  }
}

/** Longer values are cut in messages. */
const SHOWN_CHARACTERS = 120

/** What somebody else wrote, as JSON on one line of bounded length, for a message. */
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
    super('E_USAGE', message, { ...(next === undefined ? {} : { next }), ...(cause === undefined ? {} : { cause }) })
  }
}
