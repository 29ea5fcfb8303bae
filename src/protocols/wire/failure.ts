import { create } from '@bufbuild/protobuf'
import { MidspanError } from '../../errors.ts'
import { MAX_FAILURE_MESSAGE_CHARS } from './constants.ts'
import { RemoteError } from './errors.ts'
import { plainText } from './text.ts'
import { type Failure, FailureSchema } from './wire_pb.ts'

const CODE = /^E_[A-Z0-9_]{1,60}$/

/**
 * What a peer gives up with that passes: it stops, has no room just now, waits for another server, or lost the stream itself. Every other
 * refusal is final.
 */
const PASSING_CODES: ReadonlySet<string> = new Set([
  'E_STOPPING', 'E_BUSY', 'E_CHANNEL_CLOSED', 'E_CHANNEL_RESET', 'E_CHANNEL_TIMEOUT', 'E_FRAME_TRUNCATED',
  'E_CACHE_EVICTED', 'E_BLOCKS_MISSING', 'E_ADAPTERS_MISSING', 'E_HANDOVER_NEXT', 'E_HANDOVER_PREVIOUS'
])

/** What a peer may know of an error: only errors that Midspan throws on purpose are told, others may quote what is private. */
export function failureOf (error: unknown): Failure {
  return error instanceof MidspanError
    ? create(FailureSchema, { code: error.code, message: error.message.slice(0, MAX_FAILURE_MESSAGE_CHARS) })
    : create(FailureSchema, { code: 'E_INTERNAL', message: 'an internal error' })
}

/** The error that a peer's words become: a well-formed code, a bounded message without control characters. */
export function remoteErrorOf (failure: Failure): RemoteError {
  const message = plainText(failure.message, MAX_FAILURE_MESSAGE_CHARS)
  return new RemoteError(CODE.test(failure.code) ? failure.code : 'E_REMOTE', message === '' ? 'the peer gave up' : message, {
    retryable: PASSING_CODES.has(failure.code)
  })
}
