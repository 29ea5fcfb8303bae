import { createCipheriv } from 'node:crypto'
import { create, toBinary } from '@bufbuild/protobuf'
import { Uint8ArrayList } from 'uint8arraylist'
import { RECORD_BYTES, REKEY_AFTER_BYTES, REKEY_AFTER_MS } from './constants.ts'
import { FrameTooLargeError } from './errors.ts'
import { encodeHead } from './framing.ts'
import { TrafficKeys } from './keys.ts'
import { AssociatedData, type Binding, CIPHER, digestOf, FRAME_KINDS, type FrameKind, recordCount, SESSION_TAG_BYTES } from './records.ts'
import { FrameHeaderSchema } from './wire_pb.ts'

/** When a sender replaces its keys. */
export interface RekeyPolicy {
  readonly afterBytes: number
  readonly afterMs: number
  readonly now: () => number
}

const REKEY_POLICY: RekeyPolicy = { afterBytes: REKEY_AFTER_BYTES, afterMs: REKEY_AFTER_MS, now: () => performance.now() }

/** Sequence numbers are 32 bits and never come again within a session. */
const MAX_SEQUENCE = 2 ** 32 - 1

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
