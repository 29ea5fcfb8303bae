import type { Encoding } from '../../../encoding.ts'
import type { Protection } from '../boundary.ts'

/**
 * Noises that the curve of an audit has, for rows of 64 coordinates: from one that hides nothing to one that leaves a word in a hundred.
 * For wider rows they grow by the root of the width, as the distance between tokens does over the noise of one coordinate.
 */
const CURVE_NOISES: readonly number[] = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
const CURVE_WIDTH = 64

/** Noise that drowns everything: what is left of a token is a thousandth of a nat. */
const DROWNING_NOISE = 1000

/** The largest float16, and deviations of noise that hardly any value exceeds: what is beyond would be cut off. */
const MAX_FLOAT16 = 65_504
const DEVIATIONS = 8

/** The protections that an audit releases its rows under, and which of them are which. */
export interface Levels {
  readonly protections: readonly Protection[]
  /** Without noise. */
  readonly bare: number
  readonly deployed: number
  readonly drowned: number
}

/**
 * Chooses protections: none, as deployed, those of a curve or of the noises that are given, and one that drowns everything. `longest` is
 * the norm of the longest row.
 */
export function levelsFor (
  { clip, noise }: Protection,
  { hidden, rounding, longest, noises: given = curveNoises(hidden) }: {
    readonly hidden: number
    readonly rounding: Encoding
    readonly longest: number
    readonly noises?: readonly number[] | undefined
  }
): Levels {
  const norm = clip ?? longest
  const mostOfFloat16 = MAX_FLOAT16 / DEVIATIONS * Math.sqrt(hidden) / norm
  const drowning = rounding === 'fp16' ? Math.min(DROWNING_NOISE, mostOfFloat16) : DROWNING_NOISE
  const noises = [...new Set([...given, noise])]
    .filter((each) => each > 0 && (each < drowning || each === noise)).sort((a, b) => a - b)
  const protections = [{ clip, noise: 0 }, ...noises.map((each) => ({ clip: norm, noise: each })), { clip: norm, noise: drowning }]
  const deployed = noise === 0 ? 0 : protections.findIndex((each) => each.noise === noise)
  return { protections, bare: 0, deployed, drowned: protections.length - 1 }
}

/** Lists the noises that a curve has for rows of so many coordinates. */
export function curveNoises (hidden: number): number[] {
  const widened = Math.sqrt(hidden / CURVE_WIDTH)
  return CURVE_NOISES.map((each) => Number((each * widened).toPrecision(2)))
}
