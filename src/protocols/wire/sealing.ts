import { fromBinary, toBinary, create } from '@bufbuild/protobuf'
import { createCipheriv, createDecipheriv, createHash, createSecretKey, hkdfSync, type DecipherGCM, type KeyObject } from 'node:crypto'
import { Uint8ArrayList } from 'uint8arraylist'
import { MAX_FRAME_HEADER_BYTES, RECORD_BYTES, REKEY_AFTER_BYTES, REKEY_AFTER_MS, TAG_BYTES } from './constants.ts'
import { FrameForeignError, FrameForgedError, FrameMalformedError, FrameReorderedError, FrameReplayedError, FrameTooLargeError } from './errors.ts'
import { encodeHead, type FrameFormat } from './framing.ts'
import { type FrameHeader, FrameHeaderSchema } from './wire_pb.ts'

/** What the records of one direction of one session are bound to. */
export interface Binding {
  readonly protocol: string
  /** 16 bytes. */
  readonly sessionId: Uint8Array
  readonly direction: 'c2s' | 's2c'
}

/** When a sender replaces its keys. */
export interface RekeyPolicy {
  readonly afterBytes: number
  readonly afterMs: number
  readonly now: () => number
}

const REKEY_POLICY: RekeyPolicy = { afterBytes: REKEY_AFTER_BYTES, afterMs: REKEY_AFTER_MS, now: Date.now }

export const FRAME_KINDS = { message: 1, end: 2, failure: 3 } as const
export type FrameKind = keyof typeof FRAME_KINDS

/** Sequence numbers are 32 bits and never come again within a session. */
const MAX_SEQUENCE = 2 ** 32 - 1

/** Enough of a session's id to tell an honest mistake from a forgery; the records bind all of it. */
const SESSION_TAG_BYTES = 8

const CIPHER = 'aes-256-gcm'
const KEY_BYTES = 32
const IV_BYTES = 12

/** Bytes on the stream for this much plaintext: each record adds its tag, and a frame has at least one record. */
export function sealedBytes (bodyBytes: number): number {
  return bodyBytes + TAG_BYTES * recordCount(bodyBytes)
}

function recordCount (bodyBytes: number): number {
  return Math.max(1, Math.ceil(bodyBytes / RECORD_BYTES))
}

/** One direction's secret, the key and nonces that come of it, and its successors (the ratchet of TLS 1.3's KeyUpdate, RFC 8446 section 7.2). */
class TrafficKeys {
  epoch = 0
  #secret: Buffer
  #key: KeyObject
  #iv: Buffer
  #counter = 0
  readonly #nonce = Buffer.alloc(IV_BYTES)

  constructor (secret: Uint8Array) {
    this.#secret = Buffer.from(secret)
    this.#key = cipherKey(this.#secret)
    this.#iv = expand(this.#secret, 'iv', IV_BYTES)
  }

  get key (): KeyObject {
    return this.#key
  }

  /** The next record's nonce: the iv, its last eight bytes XORed with a counter that never repeats under one key. Valid until the next call. */
  nextNonce (): Buffer {
    const counter = this.#counter++
    this.#iv.copy(this.#nonce)
    this.#nonce.writeUInt32BE((this.#iv.readUInt32BE(4) ^ Math.floor(counter / 2 ** 32)) >>> 0, 4)
    this.#nonce.writeUInt32BE((this.#iv.readUInt32BE(8) ^ counter) >>> 0, 8)
    return this.#nonce
  }

  /** Replaces the secret by its successor, from which it cannot be computed. */
  ratchet (): void {
    const next = expand(this.#secret, 'next', KEY_BYTES)
    this.destroy()
    this.#secret = next
    this.#key = cipherKey(next)
    this.#iv = expand(next, 'iv', IV_BYTES)
    this.#counter = 0
    this.epoch++
  }

  /** Forgets the secret. The key's own bytes are the runtime's, which frees them with this object. */
  destroy (): void {
    for (const bytes of [this.#secret, this.#iv, this.#nonce]) bytes.fill(0)
  }
}

/** A key object, made once: Node 24 takes ten times as long to begin a record with a key given as bytes. */
function cipherKey (secret: Uint8Array): KeyObject {
  const bytes = expand(secret, 'key', KEY_BYTES)
  const key = createSecretKey(bytes)
  bytes.fill(0)
  return key
}

function expand (secret: Uint8Array, label: string, bytes: number): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, '', `midspan/wire/1 ${label}`, bytes))
}

const BINDING_BYTES = 32
const RECORD_POSITION_BYTES = 5

/** The associated data of a frame's records: a digest of the binding, the header as sent, the record's index, whether it is the last. */
class AssociatedData {
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

function digestOf ({ protocol, sessionId, direction }: Binding): Buffer {
  return createHash('sha256').update(JSON.stringify(['midspan/wire/1 records', protocol, Buffer.from(sessionId).toString('hex'), direction])).digest()
}

/** Seals the frames of one direction. */
export class FrameSealer {
  readonly #keys: TrafficKeys
  readonly #binding: Buffer
  readonly #sessionTag: Uint8Array
  readonly #policy: RekeyPolicy
  #sequence = 0
  #sealedBytes = 0
  #keyedAt: number

  constructor (secret: Uint8Array, binding: Binding, policy: RekeyPolicy = REKEY_POLICY) {
    this.#keys = new TrafficKeys(secret)
    this.#binding = digestOf(binding)
    this.#sessionTag = binding.sessionId.slice(0, SESSION_TAG_BYTES)
    this.#policy = policy
    this.#keyedAt = policy.now()
  }

  /**
   * The next frame, one list of bytes a record, made as they are taken: take them all, in order, before the next frame.
   * The parts are read in place and may change only after the last record has been taken.
   */
  * seal (kind: FrameKind, parts: readonly Uint8Array[]): Generator<Uint8ArrayList> {
    const bodyLength = parts.reduce((sum, part) => sum + part.byteLength, 0)
    this.#rekeyWhenDue(bodyLength)
    if (this.#sequence > MAX_SEQUENCE) throw new FrameTooLargeError('a session', this.#sequence, MAX_SEQUENCE)
    const header = toBinary(FrameHeaderSchema, create(FrameHeaderSchema, {
      session: this.#sessionTag, sequence: this.#sequence++, kind: FRAME_KINDS[kind], bodyLength, epoch: this.#keys.epoch
    }))
    const associatedData = new AssociatedData(this.#binding, header)
    const count = recordCount(bodyLength)
    const reader = new PartReader(parts)
    for (let index = 0; index < count; index++) {
      const record = new Uint8ArrayList()
      if (index === 0) record.append(encodeHead(header))
      const cipher = createCipheriv(CIPHER, this.#keys.key, this.#keys.nextNonce())
      cipher.setAAD(associatedData.of(index, index === count - 1))
      for (const part of reader.take(RECORD_BYTES)) record.append(cipher.update(part))
      cipher.final()
      record.append(cipher.getAuthTag())
      yield record
    }
  }

  destroy (): void {
    this.#keys.destroy()
  }

  #rekeyWhenDue (bodyLength: number): void {
    this.#sealedBytes += bodyLength
    const now = this.#policy.now()
    if (this.#sealedBytes <= this.#policy.afterBytes && now - this.#keyedAt <= this.#policy.afterMs) return
    this.#keys.ratchet()
    this.#sealedBytes = bodyLength
    this.#keyedAt = now
  }
}

/** Reads across a list of byte arrays without copying them. */
class PartReader {
  readonly #parts: readonly Uint8Array[]
  #index = 0
  #offset = 0

  constructor (parts: readonly Uint8Array[]) {
    this.#parts = parts
  }

  /** The next bytes, `maxBytes` of them or all that are left. */
  * take (maxBytes: number): Generator<Uint8Array> {
    for (let left = maxBytes; left > 0 && this.#index < this.#parts.length;) {
      const part = this.#parts[this.#index] as Uint8Array
      const slice = part.subarray(this.#offset, this.#offset + left)
      this.#offset += slice.byteLength
      left -= slice.byteLength
      if (this.#offset === part.byteLength) {
        this.#index++
        this.#offset = 0
      }
      if (slice.byteLength > 0) yield slice
    }
  }
}

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

/** Opens the frames of one direction, as a format for decodeFrames: `parse` checks a header, `begin` and `add` open its records piece by piece. */
export class FrameOpener implements FrameFormat<FrameHeader> {
  readonly maxHeaderBytes = MAX_FRAME_HEADER_BYTES
  readonly #keys: TrafficKeys
  readonly #binding: Buffer
  readonly #sessionTag: Buffer
  readonly #maxBodyBytes: number
  readonly #tag = Buffer.alloc(TAG_BYTES)
  #expected = 0
  #opening: Opening | undefined

  constructor (secret: Uint8Array, binding: Binding, maxBodyBytes: number) {
    this.#keys = new TrafficKeys(secret)
    this.#binding = digestOf(binding)
    this.#sessionTag = Buffer.from(binding.sessionId.slice(0, SESSION_TAG_BYTES))
    this.#maxBodyBytes = maxBodyBytes
  }

  parse (bytes: Uint8Array): { header: FrameHeader, payloadBytes: number } {
    const header = parseHeader(bytes)
    if (!this.#sessionTag.equals(header.session)) throw new FrameForeignError()
    if (header.sequence < this.#expected) throw new FrameReplayedError(header.sequence, this.#expected)
    if (header.sequence > this.#expected) throw new FrameReorderedError(header.sequence, this.#expected)
    if (header.bodyLength > this.#maxBodyBytes) throw new FrameTooLargeError('a frame', header.bodyLength, this.#maxBodyBytes)
    if (header.epoch !== this.#keys.epoch && header.epoch !== this.#keys.epoch + 1) throw new FrameForgedError(`the epoch of frame ${header.sequence}`)
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
      Object.assign(opening, this.#nextRecord(opening.associatedData, opening.record + 1, opening.body.byteLength - opening.openedBytes), { tagBytes: 0 })
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

function parseHeader (bytes: Uint8Array): FrameHeader {
  try {
    return fromBinary(FrameHeaderSchema, bytes)
  } catch (error) {
    throw new FrameMalformedError('its header cannot be read', error)
  }
}

function kindOf (number: number): FrameKind {
  for (const [kind, value] of Object.entries(FRAME_KINDS)) if (value === number) return kind as FrameKind
  throw new FrameMalformedError(`its kind ${number} is unknown`)
}
