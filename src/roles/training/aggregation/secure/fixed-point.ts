import { MAX_VALUE } from './constants.ts'
import { ContributionRangeError } from './errors.ts'

/** Binary digits after the point. A float32 of magnitude 2^-17 or more is represented exactly, a smaller value to 2^-41. */
export const FRACTION_BITS = 40

const SCALE = 2 ** FRACTION_BITS
const HALF = 2 ** 32

/**
 * Returns values as fixed-point numbers modulo 2^64, two halves each, the lower one first: [2 · values]. Each is rounded to the nearest
 * multiple of 2^-40. Throws ContributionRangeError for a value that is not a number, or of a magnitude above MAX_VALUE.
 */
export function toFixedPoint (values: Float32Array): Uint32Array {
  const words = new Uint32Array(2 * values.length)
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number
    // The comparison is false for NaN.
    if (!(Math.abs(value) <= MAX_VALUE)) throw new ContributionRangeError(value)
    // A float32 times a power of two is exact in a double, and above 2^53 it is an integer already.
    const scaled = Math.round(value * SCALE)
    const high = Math.floor(scaled / HALF)
    words[2 * i] = scaled - high * HALF
    words[2 * i + 1] = high
  }
  return words
}

/** Returns the values of fixed-point numbers modulo 2^64, as signed ones. The inverse of `toFixedPoint`, to the rounding of a float32. */
export function fromFixedPoint (words: Uint32Array): Float32Array {
  const values = new Float32Array(words.length / 2)
  for (let i = 0; i < values.length; i++) values[i] = (((words[2 * i + 1] as number) | 0) * HALF + (words[2 * i] as number)) / SCALE
  return values
}

/** Whether every value could be the sum of this many contributions. A sum with a mask left on it is not, but for one in 2^values cases. */
export function isWithinRange (values: Float32Array, contributors: number): boolean {
  return values.every((value) => Math.abs(value) <= contributors * MAX_VALUE)
}

/** Adds fixed-point numbers to others, modulo 2^64. */
export function add (sum: Uint32Array, words: Uint32Array): void {
  for (let i = 0; i < words.length; i += 2) {
    const low = (sum[i] as number) + (words[i] as number)
    sum[i] = low
    sum[i + 1] = (sum[i + 1] as number) + (words[i + 1] as number) + (low >= HALF ? 1 : 0)
  }
}

/** Subtracts fixed-point numbers from others, modulo 2^64. */
export function subtract (difference: Uint32Array, words: Uint32Array): void {
  for (let i = 0; i < words.length; i += 2) {
    const low = (difference[i] as number) - (words[i] as number)
    difference[i] = low
    difference[i + 1] = (difference[i + 1] as number) - (words[i + 1] as number) - (low < 0 ? 1 : 0)
  }
}
