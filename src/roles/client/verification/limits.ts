import type { Encoding } from '../../../encoding.ts'
import type { Arithmetic } from '../../middle/arithmetic.ts'

/** What the distances of tokens may be between two servers that are both honest. */
export interface DistanceLimits {
  /** No token is farther apart than this. */
  readonly token: number
  /** Of any 32 tokens in a row, the middle one by distance is no farther apart than this. */
  readonly median: number
}

/**
 * What the products of a server keep: `full` are those of fp32 and fp16 weights in fp32 arithmetic, `int8` and `int4` those of weights in
 * blocks of codes, `products` those that are computed in int8.
 */
type Precision = 'full' | 'int8' | 'int4' | 'products'

/**
 * The limits by the precisions of both servers, in the order of their letters, and by whether the wire rounds to int8. `bench/verify.ts`
 * measured honest servers of three models on CPUs; docs/verification.md has its figures. The limits are chosen to accuse nobody: where both
 * servers say that they have few bits, only gross errors are found.
 */
const LIMITS: Readonly<Record<string, { readonly token: number, readonly median: number, readonly medianOverInt8: number }>> = {
  // fp16 in place of fp32 weights, where the checkpoint has fp32: no token beyond 0.0011, over int8 0.0091. int8 in place of fp16: medians
  // of 0.0045 and more, over int8 of 0.0086 and more; int4: of 0.036 and more.
  'full full': { token: 0.03, median: 0.002, medianOverInt8: 0.01 },
  // A product of one token rounds its inputs otherwise than one of many: up to 0.05 for a token on the very same device, over int8 0.08.
  'int8 int8': { token: 0.2, median: 0.06, medianOverInt8: 0.08 },
  'int4 int4': { token: 0.2, median: 0.06, medianOverInt8: 0.08 },
  // Medians of 0.027, over int8 of 0.057; tokens up to 0.14.
  'full int8': { token: 0.5, median: 0.1, medianOverInt8: 0.15 },
  // Medians of 0.24; tokens up to 0.60. Flipped signs are found, and zeros and other weights where most tokens have them.
  'full int4': { token: 1.2, median: 0.5, medianOverInt8: 0.5 },
  'int4 int8': { token: 1.2, median: 0.5, medianOverInt8: 0.5 },
  // Medians of 0.042, over int8 of 0.070; tokens up to 0.21. Between two that compute in int8 on one processor, medians of 0.007, and over
  // int8 of 0.034; processors without VNNI have half of the steps, which was not measured, as int4 with int8 products was not.
  'products products': { token: 0.5, median: 0.1, medianOverInt8: 0.15 },
  'full products': { token: 0.5, median: 0.1, medianOverInt8: 0.15 },
  'int8 products': { token: 0.5, median: 0.1, medianOverInt8: 0.15 },
  'int4 products': { token: 1.2, median: 0.5, medianOverInt8: 0.5 }
}

/** Tokens whose middle distance counts: enough that a few far ones decide nothing, few enough that a false part of a text is found. */
const WINDOW_TOKENS = 32

/** Of fewer tokens than this, the middle one says little. */
const LEAST_WINDOW_TOKENS = 8

/** Returns what the distances of tokens may be between servers of these arithmetics, from what was measured of honest ones. */
export function limitsOf (a: Arithmetic, b: Arithmetic, wire: Encoding): DistanceLimits {
  const { token, median, medianOverInt8 } = LIMITS[[precisionOf(a), precisionOf(b)].sort().join(' ')]!
  return { token, median: wire === 'int8' ? medianOverInt8 : median }
}

/** Returns whether the distances of consecutive tokens are what two honest servers may have. */
export function isWithin (distances: readonly number[], { token, median }: DistanceLimits): boolean {
  if (distances.some((distance) => !(distance <= token))) return false
  if (distances.length < LEAST_WINDOW_TOKENS) return true
  const last = Math.max(0, distances.length - WINDOW_TOKENS)
  for (let start = 0; start < last; start += WINDOW_TOKENS / 2)
    if (medianOf(distances.slice(start, start + WINDOW_TOKENS)) > median) return false
  return medianOf(distances.slice(last)) <= median
}

/** Returns the middle one of some numbers; of an even number the lower one of the two. 0 where there are none. */
export function medianOf (values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[(values.length - 1) >> 1] ?? 0
}

/**
 * Returns the probability that at least one of these texts is checked, each with a probability of `share`. A server that answers wrong in
 * `texts` texts of one client is caught with this probability.
 */
export function chanceOfCheck (share: number, texts: number): number {
  return 1 - (1 - share) ** texts
}

/** fp16 products are taken for int8's: they round more finely than those of int8 weights, and were not measured. */
function precisionOf ({ weights, compute }: Arithmetic): Precision {
  if (weights === 'int4' || weights === 'int8') return weights
  if (compute === 'int8') return 'products'
  return compute === 'fp16' ? 'int8' : 'full'
}
