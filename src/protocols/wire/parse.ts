import { fromBinary, type Message } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'
import { FrameMalformedError } from './errors.ts'

/**
 * Reads a message that a peer sent; `what` names it in the error. Fields that this release does not know are passed over: kept, each would
 * take a hundred times the two bytes that it can come in. Throws FrameMalformedError.
 */
export function parseMessage<M extends Message> (schema: GenMessage<M>, bytes: Uint8Array, what: string): M {
  try {
    return fromBinary(schema, bytes, { readUnknownFields: false })
  } catch (error) {
    throw new FrameMalformedError(`${what} cannot be read`, error)
  }
}
