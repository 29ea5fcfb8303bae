import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  randomBytes,
  type KeyObject
} from 'node:crypto'
import { BOX_BYTES, KEY_BYTES } from './constants.ts'

/** What RFC 8410 puts before the 32 bytes of a private and of a public X25519 key. */
const PRIVATE_PREFIX = Buffer.from('302e020100300506032b656e04220420', 'hex')
const PUBLIC_PREFIX = Buffer.from('302a300506032b656e032100', 'hex')

const NONCE_BYTES = 12
const TAG_BYTES = 16

/** An X25519 key pair. */
export interface KeyPair {
  readonly key: KeyObject
  /** [32 bytes] */
  readonly publicKey: Uint8Array
}

/** A pair that keys of others are tried with. */
const probe = makeKeyPair()

/** Makes a key pair from the operating system's randomness. */
export function makeKeyPair (): KeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('x25519')
  return { key: privateKey, publicKey: rawBytes(publicKey.export({ format: 'der', type: 'spki' })) }
}

/** Returns the private key [32 bytes] of a pair. */
export function privateBytes ({ key }: KeyPair): Uint8Array {
  return rawBytes(key.export({ format: 'der', type: 'pkcs8' }))
}

/** Returns the pair of a private key [32 bytes]. */
export function keyPairOf (privateKey: Uint8Array): KeyPair {
  const key = createPrivateKey({ key: Buffer.concat([PRIVATE_PREFIX, privateKey]), format: 'der', type: 'pkcs8' })
  return { key, publicKey: rawBytes(createPublicKey(key).export({ format: 'der', type: 'spki' })) }
}

/**
 * Returns a key [32 bytes] that the holders of two key pairs have in common, for one purpose: HKDF-SHA256 of X25519's result. Throws for
 * public keys with which every private key gives the same.
 */
export function agree ({ key }: KeyPair, publicKey: Uint8Array, purpose: string): Uint8Array {
  const other = createPublicKey({ key: Buffer.concat([PUBLIC_PREFIX, publicKey]), format: 'der', type: 'spki' })
  return new Uint8Array(hkdfSync('sha256', diffieHellman({ privateKey: key, publicKey: other }), new Uint8Array(0), purpose, KEY_BYTES))
}

/** Whether these bytes are a public key that can be agreed with: the contributors would refuse any other, and with it the sum. */
export function isUsableKey (publicKey: Uint8Array): boolean {
  if (publicKey.byteLength !== KEY_BYTES) return false
  try {
    return agree(probe, publicKey, '').byteLength === KEY_BYTES
  } catch {
    return false // the result would be zero for every private key
  }
}

/** Seals bytes with AES-256-GCM under a fresh nonce, bound to a context. */
export function seal (key: Uint8Array, bytes: Uint8Array, context: Uint8Array): Uint8Array {
  const nonce = randomBytes(NONCE_BYTES)
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
  cipher.setAAD(context)
  return new Uint8Array(Buffer.concat([nonce, cipher.update(bytes), cipher.final(), cipher.getAuthTag()]))
}

/** Opens what was sealed. Returns undefined for what was not sealed so. */
export function open (key: Uint8Array, box: Uint8Array, context: Uint8Array): Uint8Array | undefined {
  if (box.byteLength !== BOX_BYTES) return undefined
  const decipher = createDecipheriv('aes-256-gcm', key, box.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES })
  decipher.setAAD(context)
  decipher.setAuthTag(box.subarray(-TAG_BYTES))
  try {
    return new Uint8Array(Buffer.concat([decipher.update(box.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final()]))
  } catch {
    return undefined // the tag does not fit: another key, another context, or other bytes
  }
}

function rawBytes (der: Uint8Array): Uint8Array {
  return new Uint8Array(der.slice(-KEY_BYTES))
}
