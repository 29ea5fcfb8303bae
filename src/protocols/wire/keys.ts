import { createSecretKey, hkdfSync, type KeyObject } from 'node:crypto'

const KEY_BYTES = 32
const IV_BYTES = 12

/**
 * One direction's secret, the key and nonces that come of it, and its successors (the ratchet of TLS 1.3's KeyUpdate, RFC 8446 section
 * 7.2).
 */
export class TrafficKeys {
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

  /**
   * The next record's nonce: the iv, its last eight bytes XORed with a counter that never repeats under one key. Valid until the next call.
   */
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
