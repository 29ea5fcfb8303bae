import { createDecipheriv, type DecipherGCM } from 'node:crypto'
import { MAX_FRAME_HEADER_BYTES, MAX_LAST_WORDS_BYTES, RECORD_BYTES, TAG_BYTES } from './constants.ts'
import {
  FrameForeignError,
  FrameForgedError,
  FrameMalformedError,
  FrameReorderedError,
  FrameReplayedError,
  FrameTooLargeError
} from './errors.ts'
import type { FrameFormat } from './framing.ts'
import { TrafficKeys } from './keys.ts'
import { parseMessage } from './parse.ts'
import { AssociatedData, type Binding, CIPHER, digestOf, FRAME_KINDS, type FrameKind, sealedBytes, SESSION_TAG_BYTES } from './records.ts'
import { type FrameHeader, FrameHeaderSchema } from './wire_pb.ts'

/** A frame's plaintext. */
export interface OpenedFrame {
  readonly header: FrameHeader
  readonly kind: FrameKind
  /** Begins at an 8-byte boundary of its buffer. */
  readonly body: Uint8Array
}

interface Opening {
  readonly header: FrameHeader
  readonly kind: FrameKind
  readonly associatedData: AssociatedData
  readonly body: Uint8Array
  openedBytes: number
  record: number
  /** Plaintext bytes still missing from the record. */
  recordBytes: number
  tagBytes: number
  decipher: DecipherGCM
}

/**
 * Opens the frames of one direction, as a format for decodeFrames: `parse` checks a header, `begin` and `add` open its records piece by
 * piece.
 */
export class FrameOpener implements FrameFormat<FrameHeader> {
  readonly maxHeaderBytes = MAX_FRAME_HEADER_BYTES
  readonly #keys: TrafficKeys
  readonly #binding: Buffer
  readonly #sessionTag: Buffer
  readonly #maxBodyBytes: Readonly<Record<FrameKind, number>>
  readonly #tag = Buffer.alloc(TAG_BYTES)
  #expected = 0
  #opening: Opening | undefined

  constructor (secret: Uint8Array, binding: Binding, maxBodyBytes: number) {
    this.#keys = new TrafficKeys(secret)
    this.#binding = digestOf(binding)
    this.#sessionTag = Buffer.from(binding.sessionId.slice(0, SESSION_TAG_BYTES))
    this.#maxBodyBytes = { message: maxBodyBytes, failure: MAX_LAST_WORDS_BYTES, end: MAX_LAST_WORDS_BYTES }
  }

  parse (bytes: Uint8Array): { header: FrameHeader, payloadBytes: number } {
    const header = parseMessage(FrameHeaderSchema, bytes, 'its header')
    if (!this.#sessionTag.equals(header.session)) throw new FrameForeignError()
    if (header.sequence < this.#expected) throw new FrameReplayedError(header.sequence, this.#expected)
    if (header.sequence > this.#expected) throw new FrameReorderedError(header.sequence, this.#expected)
    const limit = this.#maxBodyBytes[kindOf(header.kind)]
    if (header.bodyLength > limit) throw new FrameTooLargeError('a frame', header.bodyLength, limit)
    if (header.epoch !== this.#keys.epoch && header.epoch !== this.#keys.epoch + 1)
      throw new FrameForgedError(`the epoch of frame ${header.sequence}`)
    return { header, payloadBytes: sealedBytes(header.bodyLength) }
  }

  begin (header: FrameHeader, headerBytes: Uint8Array): void {
    const kind = kindOf(header.kind)
    if (header.epoch > this.#keys.epoch) this.#keys.ratchet()
    this.#expected++
    const associatedData = new AssociatedData(this.#binding, headerBytes)
    const body = Buffer.allocUnsafeSlow(header.bodyLength)
    this.#opening = {
      header, kind, associatedData, body, openedBytes: 0, tagBytes: 0, ...this.#nextRecord(associatedData, 0, body.byteLength)
    }
  }

  /** Adds bytes; returns the frame with its last one. Throws FrameForgedError at the first record that does not authenticate. */
  add (piece: Uint8Array): OpenedFrame | undefined {
    const opening = this.#opening
    if (opening === undefined) throw new FrameMalformedError('bytes outside of a frame')
    for (let rest = piece; rest.byteLength > 0;) {
      const step = opening.recordBytes > 0 ? this.#addText(opening, rest) : this.#addTag(opening, rest)
      rest = rest.subarray(step)
      if (opening.recordBytes > 0 || opening.tagBytes < TAG_BYTES) continue
      this.#finishRecord(opening)
      if (opening.openedBytes === opening.body.byteLength) {
        this.#opening = undefined
        return opening
      }
      Object.assign(opening, this.#nextRecord(opening.associatedData, opening.record + 1, opening.body.byteLength - opening.openedBytes), {
        tagBytes: 0
      })
    }
    return undefined
  }

  destroy (): void {
    this.#keys.destroy()
    this.#opening = undefined
  }

  #nextRecord (associatedData: AssociatedData, record: number, leftBytes: number): Pick<Opening, 'record' | 'recordBytes' | 'decipher'> {
    const decipher = createDecipheriv(CIPHER, this.#keys.key, this.#keys.nextNonce(), { authTagLength: TAG_BYTES })
    decipher.setAAD(associatedData.of(record, leftBytes <= RECORD_BYTES))
    return { record, recordBytes: Math.min(leftBytes, RECORD_BYTES), decipher }
  }

  #addText (opening: Opening, bytes: Uint8Array): number {
    const text = bytes.byteLength > opening.recordBytes ? bytes.subarray(0, opening.recordBytes) : bytes
    opening.body.set(opening.decipher.update(text), opening.openedBytes)
    opening.openedBytes += text.byteLength
    opening.recordBytes -= text.byteLength
    return text.byteLength
  }

  #addTag (opening: Opening, bytes: Uint8Array): number {
    const part = bytes.subarray(0, TAG_BYTES - opening.tagBytes)
    this.#tag.set(part, opening.tagBytes)
    opening.tagBytes += part.byteLength
    return part.byteLength
  }

  #finishRecord (opening: Opening): void {
    try {
      opening.decipher.setAuthTag(this.#tag)
      opening.decipher.final()
    } catch (error) {
      this.#opening = undefined
      throw new FrameForgedError(`record ${opening.record} of frame ${opening.header.sequence}`, error)
    }
  }
}

function kindOf (number: number): FrameKind {
  for (const [kind, value] of Object.entries(FRAME_KINDS)) if (value === number) return kind as FrameKind
  throw new FrameMalformedError(`its kind ${number} is unknown`)
}
