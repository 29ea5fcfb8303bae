import { float16Table, toFloat16 } from '../float16.ts'
import { storedBytes, type FloatDType, type SaveDType } from './dtypes.ts'

/**
 * Converts little-endian stored values to float32, exactly except for F64, which rounds to nearest. Returns whether all are finite.
 * `bytes` holds whole elements and may lie at any offset; `target` starts at the first of them and holds at least as many.
 */
export function widen (dtype: FloatDType, bytes: Uint8Array, target: Float32Array): boolean {
  const size = storedBytes[dtype]
  const source = bytes.byteOffset % size === 0 ? bytes : bytes.slice()
  const count = bytes.byteLength / size
  if (dtype === 'F32') {
    target.set(new Float32Array(source.buffer, source.byteOffset, count))
    return allFinite(target.subarray(0, count))
  }
  if (dtype === 'F64') {
    target.set(new Float64Array(source.buffer, source.byteOffset, count))
    return allFinite(target.subarray(0, count))
  }
  const words = new Uint16Array(source.buffer, source.byteOffset, count)
  const bits = new Uint32Array(target.buffer, target.byteOffset, count)
  return dtype === 'BF16' ? widenBfloat16(words, bits) : widenHalf(words, bits)
}

// An exponent of ones alone, which NaN and infinity have, carries when one is added to it: faster to look for than a value in each turn.

function widenBfloat16 (words: Uint16Array, bits: Uint32Array): boolean {
  let carried = 0
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    bits[i] = word << 16
    carried |= (word & 0x7f80) + 0x80
  }
  return carried < 0x8000
}

function widenHalf (words: Uint16Array, bits: Uint32Array): boolean {
  const table = float16Table()
  let carried = 0
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    bits[i] = table[word]!
    carried |= (word & 0x7c00) + 0x400
  }
  return carried < 0x8000
}

/** Returns whether no value is NaN or infinite. */
export function allFinite (values: Float32Array): boolean {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  let carried = 0
  for (let i = 0; i < bits.length; i++) carried |= ((bits[i]! >>> 23) & 0xff) + 1
  return carried < 0x100
}

/**
 * Rounds float32 values to a stored type, to nearest with ties to even, as PyTorch does; returns their little-endian bytes. F32 does not
 * copy.
 */
export function narrow (dtype: SaveDType, values: Float32Array): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  return new Uint8Array((dtype === 'BF16' ? toBfloat16 : toFloat16)(values).buffer)
}

function toBfloat16 (values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const words = new Uint16Array(values.length)
  for (let i = 0; i < words.length; i++) {
    const value = bits[i]! | 0
    const isNaN = (value & 0x7fffffff) > 0x7f800000
    words[i] = isNaN ? (value >>> 16) | 0x40 : (value + 0x7fff + ((value >>> 16) & 1)) >>> 16
  }
  return words
}
