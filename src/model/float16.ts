// Float16 values are kept as their bits (IEEE 754's binary16): Node.js has no array for them before version 24.

let table: Uint32Array | undefined

/** Returns the bits of the float32 equal to each float16: one look-up an element is faster in JavaScript than the arithmetic. */
export function float16Table (): Uint32Array {
  if (table !== undefined) return table
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
  table = bits
  return bits
}

/** Returns the float32 equal to each float16. */
export function fromFloat16 (halves: Uint16Array): Float32Array<ArrayBuffer> {
  const table = float16Table()
  const values = new Float32Array(halves.length)
  const bits = new Uint32Array(values.buffer)
  for (let i = 0; i < bits.length; i++) bits[i] = table[halves[i]!]!
  return values
}

/** Returns the bits of the float16 nearest to each float32, ties to even. */
export function toFloat16 (values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const halves = new Uint16Array(values.length)
  for (let i = 0; i < halves.length; i++) {
    const value = bits[i]! | 0
    halves[i] = ((value >>> 16) & 0x8000) | halfOf(value & 0x7fffffff)
  }
  return halves
}

/** Returns the float16 nearest to a float32 without sign, both as bits. */
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
