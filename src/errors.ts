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

/** Thrown when what a user typed, or a file a user named, cannot be used. */
export class UsageError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_USAGE', message, { ...(next === undefined ? {} : { next }), ...(cause === undefined ? {} : { cause }) })
  }
}
