import { MidspanError } from '../../errors.ts'
import { MAX_CONTROL_PAYLOAD_BYTES } from '../wire/constants.ts'
import type { ControlOptions } from '../wire/control.ts'
import { type Part, PartSchema, type Request, RequestSchema } from './weights_pb.ts'

export type PieceKind = 'file' | 'tensor'

/** Kinds by their number on the wire; 0 is a message that does not say. */
export const kinds: ReadonlyArray<PieceKind | undefined> = [undefined, 'file', 'tensor']

/** A name of at most 256 characters and two numbers. */
const MAX_MESSAGE_BYTES = 2048

export const asClient: ControlOptions<Request, Part> = {
  outgoing: RequestSchema, incoming: PartSchema, maxMessageBytes: MAX_MESSAGE_BYTES, maxPayloadBytes: MAX_CONTROL_PAYLOAD_BYTES
}

export const asServer: ControlOptions<Part, Request> = {
  outgoing: PartSchema, incoming: RequestSchema, maxMessageBytes: MAX_MESSAGE_BYTES, maxPayloadBytes: MAX_CONTROL_PAYLOAD_BYTES
}

/** A part of the model that the peer may not have, or that there is not. */
export class NotServedError extends MidspanError {
  static readonly code = 'E_NOT_SERVED'

  constructor (what: string) {
    super(NotServedError.code, `${what} is not served to this peer`)
  }
}

/** A part of the model that the peer may have, and that the server cannot read now. */
export class UnreadableError extends MidspanError {
  static readonly code = 'E_UNREADABLE'

  constructor (name: string, cause: unknown) {
    super(UnreadableError.code, `the server cannot read ${name}`, { next: 'ask its operator to look into its log', cause })
  }
}

/** More peers fetch weights than the server serves at one time. */
export class BusyError extends MidspanError {
  static readonly code = 'E_BUSY'

  constructor () {
    super(BusyError.code, 'the server is sending weights to as many peers as it can', { next: 'try again in a minute', retryable: true })
  }
}
