import { createCipheriv } from 'node:crypto'
import { add, subtract } from './fixed-point.ts'

/** Bytes of a mask that are made at a time: few enough to stay in a processor's cache. */
const PIECE_BYTES = 64 * 1024

const zeros = new Uint8Array(PIECE_BYTES)

/**
 * Adds the mask that follows from a key [32 bytes] to fixed-point numbers, or takes it off. The mask is the keystream of AES-256 in
 * counter mode from 0: a key makes one mask alone.
 */
export function applyMask (words: Uint32Array, key: Uint8Array, direction: 'add' | 'subtract'): void {
  const apply = direction === 'add' ? add : subtract
  const cipher = createCipheriv('aes-256-ctr', key, new Uint8Array(16))
  for (let start = 0; start < words.length; start += PIECE_BYTES / 4) {
    const piece = words.subarray(start, start + PIECE_BYTES / 4)
    const stream = cipher.update(zeros.subarray(0, piece.byteLength))
    apply(piece, new Uint32Array(stream.buffer, stream.byteOffset, piece.length))
  }
}
