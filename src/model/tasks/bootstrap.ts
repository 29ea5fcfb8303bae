import { SeededRandom } from '../random.ts'

/** Resamples of an interval: its ends then vary by about a fiftieth of its width from seed to seed. */
const RESAMPLES = 1000

/** The share of resamples that lie below an interval of 95 %, and above it. */
const TAIL = 0.025

/** A value over all records, and the interval in which 95 % of the resamples lie. */
export interface Interval {
  readonly value: number
  readonly low: number
  readonly high: number
}

/** Computes a value over some records, each by its number; a record may be there several times. */
export type Statistic = (records: ArrayLike<number>) => number

/**
 * Computes a statistic over `count` records with its 95 % percentile interval: records are drawn with replacement, as many as there are.
 * The same seed gives the same interval. Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
 */
export function bootstrap (count: number, statistic: Statistic, seed: string): Interval {
  const value = statistic(Uint32Array.from({ length: count }, (_, i) => i))
  const random = new SeededRandom(`bootstrap/${seed}`)
  const drawn = new Uint32Array(count)
  const values = new Float64Array(RESAMPLES)
  for (let resample = 0; resample < RESAMPLES; resample++) {
    for (let i = 0; i < count; i++) drawn[i] = random.below(count)
    values[resample] = statistic(drawn)
  }
  values.sort()
  return { value, low: quantile(values, TAIL), high: quantile(values, 1 - TAIL) }
}

/** Returns a quantile of sorted values, between two of them where it falls there. */
function quantile (sorted: Float64Array, share: number): number {
  const at = share * (sorted.length - 1)
  const [below, above] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!]
  return below === above ? below : below + (at - Math.floor(at)) * (above - below)
}
