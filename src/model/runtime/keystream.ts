import { createCipheriv } from 'node:crypto'
import type { Keystream } from './device.ts'

/** Bytes of one call to the cipher, at most: OpenSSL takes less than 2 GiB at once. */
const CALL_BYTES = 2 ** 28

/** A block of the cipher, and what the counter counts. */
const BLOCK_BYTES = 16
const BLOCK_ELEMENTS = BLOCK_BYTES / 4

/** Makes these elements of keystreams, one after another. */
export function keystreamBytes (keystreams: readonly Keystream[], callBytes = CALL_BYTES): Uint8Array {
  const [first, ...others] = keystreams
  if (first !== undefined && others.length === 0 && first.elements * 4 <= callBytes)
    return cipherOf(first).update(new Uint8Array(first.elements * 4))
  const bytes = new Uint8Array(keystreams.reduce((sum, { elements }) => sum + elements * 4, 0))
  let end = 0
  for (const keystream of keystreams) {
    const cipher = cipherOf(keystream)
    const start = end
    end += keystream.elements * 4
    // Zeros become the keystream itself.
    for (let at = start; at < end; at += callBytes) bytes.set(cipher.update(bytes.subarray(at, Math.min(end, at + callBytes))), at)
  }
  return bytes
}

/** Opens a keystream at its first element. */
function cipherOf ({ key, from = 0 }: Keystream) {
  const counter = Buffer.alloc(BLOCK_BYTES)
  counter.writeBigUInt64BE(BigInt(Math.floor(from / BLOCK_ELEMENTS)), BLOCK_BYTES - 8)
  const cipher = createCipheriv('aes-256-ctr', key, counter)
  cipher.update(new Uint8Array(from % BLOCK_ELEMENTS * 4))
  return cipher
}
