import { createHash } from 'node:crypto'
import { RECORD_BYTES, TAG_BYTES } from './constants.ts'

/** A frame's body is sealed in records of up to 1 MiB, one after the other, each with its own tag. */
export const CIPHER = 'aes-256-gcm'

/** What the records of one direction of one session are bound to. */
export interface Binding {
  readonly protocol: string
  /** 16 bytes. */
  readonly sessionId: Uint8Array
  readonly direction: 'c2s' | 's2c'
}

export const FRAME_KINDS = { message: 1, end: 2, failure: 3 } as const
export type FrameKind = keyof typeof FRAME_KINDS

/** Enough of a session's id to tell an honest mistake from a forgery; the records bind all of it. */
export const SESSION_TAG_BYTES = 8

/** Bytes on the stream for this much plaintext: each record adds its tag, and a frame has at least one record. */
export function sealedBytes (bodyBytes: number): number {
  return bodyBytes + TAG_BYTES * recordCount(bodyBytes)
}

/** How many records seal this much plaintext. */
export function recordCount (bodyBytes: number): number {
  return Math.max(1, Math.ceil(bodyBytes / RECORD_BYTES))
}

const BINDING_BYTES = 32
const RECORD_POSITION_BYTES = 5

/** The associated data of a frame's records: a digest of the binding, the header as sent, the record's index, whether it is the last. */
export class AssociatedData {
  readonly #bytes: Buffer

  constructor (binding: Uint8Array, header: Uint8Array) {
    this.#bytes = Buffer.allocUnsafe(BINDING_BYTES + header.byteLength + RECORD_POSITION_BYTES)
    this.#bytes.set(binding)
    this.#bytes.set(header, BINDING_BYTES)
  }

  /** Valid until the next call. */
  of (record: number, last: boolean): Buffer {
    const position = this.#bytes.byteLength - RECORD_POSITION_BYTES
    this.#bytes.writeUInt32BE(record, position)
    this.#bytes[position + 4] = last ? 1 : 0
    return this.#bytes
  }
}

/** What a direction's records are bound to, in 32 bytes. */
export function digestOf ({ protocol, sessionId, direction }: Binding): Buffer {
  return createHash('sha256').update(
    JSON.stringify(['midspan/wire/1 records', protocol, Buffer.from(sessionId).toString('hex'), direction])
  ).digest()
}
