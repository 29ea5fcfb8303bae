import { isDefect, MidspanError } from '../../errors.ts'

/** A record that this session's keys did not seal, or that was changed on its way. */
export class FrameForgedError extends MidspanError {
  constructor (what: string, cause?: unknown) {
    super('E_FRAME_FORGED', `${what} does not authenticate: it was changed on its way or sealed with another key`, { cause })
  }
}

/** A frame that was received before. */
export class FrameReplayedError extends MidspanError {
  constructor (sequence: number, expected: number) {
    super('E_FRAME_REPLAYED', `frame ${sequence} arrived again, frame ${expected} was expected`)
  }
}

/** A frame that arrived before its predecessors. */
export class FrameReorderedError extends MidspanError {
  constructor (sequence: number, expected: number) {
    super('E_FRAME_REORDERED', `frame ${sequence} arrived where frame ${expected} was expected`)
  }
}

/** The stream ended without the peer's goodbye. */
export class FrameTruncatedError extends MidspanError {
  constructor (where: string) {
    super('E_FRAME_TRUNCATED', `the stream ended ${where}`, { next: 'reconnect and repeat what was not answered', retryable: true })
  }
}

/** A frame of another session. */
export class FrameForeignError extends MidspanError {
  constructor () {
    super('E_FRAME_FOREIGN', 'a frame of another session arrived')
  }
}

/** Bytes that are not a frame. */
export class FrameMalformedError extends MidspanError {
  constructor (why: string, cause?: unknown) {
    super('E_FRAME_MALFORMED', `not a frame: ${why}`, { cause })
  }
}

/** A frame, message or tensor above a limit; refused before memory is taken, or before a byte is sent. */
export class FrameTooLargeError extends MidspanError {
  constructor (what: string, size: number, limit: number) {
    super('E_FRAME_TOO_LARGE', `${what} of ${size} exceeds the limit of ${limit}`)
  }
}

/** A message that was read, and does not fit its protocol. */
export class BadMessageError extends MidspanError {
  constructor (message: string) {
    super('E_BAD_MESSAGE', message)
  }
}

/** The peers could not agree on keys. */
export class HandshakeError extends MidspanError {
  constructor (why: string, cause?: unknown) {
    super('E_HANDSHAKE', `no session: ${why}`, { cause })
  }
}

/** The peers hold different charters. */
export class CharterMismatchError extends MidspanError {
  constructor () {
    super('E_CHARTER_MISMATCH', 'no session: the peers hold different charters', { next: 'join the federation again to fetch its charter' })
  }
}

/** The session has ended in agreement. */
export class ChannelClosedError extends MidspanError {
  constructor () {
    super('E_CHANNEL_CLOSED', 'the session is closed', { next: 'try again', retryable: true })
  }
}

/** The stream or its connection broke. It may be opened again, unless a defect broke it. */
export class ChannelResetError extends MidspanError {
  constructor (cause?: unknown) {
    super('E_CHANNEL_RESET', `the stream was reset${cause instanceof Error ? `: ${cause.message}` : ''}`, {
      cause, next: 'reconnect', retryable: !isDefect(cause)
    })
  }
}

/** The peer was silent, or took nothing, for too long. */
export class ChannelTimeoutError extends MidspanError {
  constructor (what: string, timeoutMs: number) {
    super('E_CHANNEL_TIMEOUT', `${what} for ${timeoutMs / 1000} s`, {
      next: 'check that the peer is running, then reconnect', retryable: true
    })
  }
}

/** The peer gave up and said why: `code` and `message` are the peer's own, cleaned and shortened. */
export class RemoteError extends MidspanError {}
