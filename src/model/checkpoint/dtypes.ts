import type { DType } from '../../tensor.ts'

/** Element types of the safetensors format, by the names used in its headers. */
export type StoredDType = 'F64' | 'F32' | 'F16' | 'BF16' | 'I64' | 'I32' | 'I16' | 'I8' | 'U64' | 'U32' | 'U16' | 'U8' | 'BOOL' | 'F8_E4M3' | 'F8_E5M2'

/** Stored types whose values are real numbers that `widen` turns into float32. */
export type FloatDType = 'F64' | 'F32' | 'F16' | 'BF16'

/** Stored types that float32 values can be rounded to when a file is written. */
export type SaveDType = 'F32' | 'F16' | 'BF16'

export const storedBytes: Readonly<Record<StoredDType, number>> = {
  F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U64: 8, U32: 4, U16: 2, U8: 1, BOOL: 1, F8_E4M3: 1, F8_E5M2: 1
}

export function isStoredDType (name: unknown): name is StoredDType {
  return typeof name === 'string' && Object.hasOwn(storedBytes, name)
}

export function isFloat (dtype: StoredDType): dtype is FloatDType {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'BF16' || dtype === 'F64'
}

/** The stored type of each type that Midspan holds in memory. */
export const storedTypeOf: Readonly<Record<DType, StoredDType>> = {
  float32: 'F32', float16: 'F16', int8: 'I8', uint8: 'U8', int32: 'I32', uint32: 'U32', int64: 'I64', bool: 'BOOL'
}

/** The type in memory of each stored type that has one. */
export const memoryTypeOf: Readonly<Partial<Record<StoredDType, DType>>> = {
  F32: 'float32', F16: 'float16', I8: 'int8', U8: 'uint8', I32: 'int32', U32: 'uint32', I64: 'int64', BOOL: 'bool'
}

/** The bits of the float32 equal to each float16: one look-up an element is faster in JavaScript than the arithmetic. */
let halfTable: Uint32Array | undefined

function halves (): Uint32Array {
  if (halfTable !== undefined) return halfTable
  const values = new Float32Array(65536)
  const bits = new Uint32Array(values.buffer)
  for (let half = 0; half < 65536; half++) {
    const sign = (half & 0x8000) << 16
    const exponent = (half >>> 10) & 31
    const mantissa = half & 0x3ff
    if (exponent === 31) {
      bits[half] = sign | 0x7f800000 | (mantissa << 13)
    } else {
      const magnitude = exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15)
      values[half] = sign === 0 ? magnitude : -magnitude
    }
  }
  halfTable = bits
  return bits
}

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
  const table = halves()
  let carried = 0
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    bits[i] = table[word]!
    carried |= (word & 0x7c00) + 0x400
  }
  return carried < 0x8000
}

/** Whether no value is NaN or infinite. */
export function allFinite (values: Float32Array): boolean {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  let carried = 0
  for (let i = 0; i < bits.length; i++) carried |= ((bits[i]! >>> 23) & 0xff) + 1
  return carried < 0x100
}

/** Rounds float32 values to a stored type, to nearest with ties to even, as PyTorch does; returns their little-endian bytes. F32 does not copy. */
export function narrow (dtype: SaveDType, values: Float32Array): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const words = new Uint16Array(values.length)
  if (dtype === 'BF16') narrowToBfloat16(bits, words)
  else narrowToHalf(bits, words)
  return new Uint8Array(words.buffer)
}

function narrowToBfloat16 (bits: Uint32Array, words: Uint16Array): void {
  for (let i = 0; i < words.length; i++) {
    const value = bits[i]! | 0
    const isNaN = (value & 0x7fffffff) > 0x7f800000
    words[i] = isNaN ? (value >>> 16) | 0x40 : (value + 0x7fff + ((value >>> 16) & 1)) >>> 16
  }
}

function narrowToHalf (bits: Uint32Array, words: Uint16Array): void {
  for (let i = 0; i < words.length; i++) {
    const value = bits[i]! | 0
    words[i] = ((value >>> 16) & 0x8000) | halfOf(value & 0x7fffffff)
  }
}

/** The float16 nearest to a float32 without sign, both as bits. */
function halfOf (magnitude: number): number {
  if (magnitude >= 0x47800000) return magnitude > 0x7f800000 ? 0x7e00 : 0x7c00
  const exponent = (magnitude >>> 23) - 112
  if (exponent > 0) return (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13
  const shift = 14 - exponent
  if (shift > 24) return 0
  const mantissa = (magnitude & 0x7fffff) | 0x800000
  const kept = mantissa >>> shift
  return (mantissa + (1 << (shift - 1)) - 1 + (kept & 1)) >>> shift
}
