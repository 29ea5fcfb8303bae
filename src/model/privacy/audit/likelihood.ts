import type { Encoding } from '../../../encoding.ts'
import { float32, type Tensor } from '../../../tensor.ts'
import { Graph } from '../../graph/graph.ts'
import { gatherRows, mul, reduceSum, sub } from '../../graph/operators/index.ts'
import { program, type Program } from '../../graph/program.ts'
import { compiled } from '../../runtime/compiled.ts'
import { continued, type AnyTensor, type Deferred, type Device, type DeviceTensor, type ProgramCall } from '../../runtime/device.ts'
import type { Scope } from '../../runtime/scope.ts'
import { noiseDeviation, type Boundary, type Protection } from '../boundary.ts'
import { clippedRows } from '../clipping.ts'
import { roundingVariance, throughRounding } from '../rounding.ts'

/**
 * The root mean square of what two programs may compute differently of the same row, over that of the row: they add in another order, and
 * with half precision. It is far below any distance between tokens, and keeps a likelihood without noise finite.
 */
const COMPUTING_ERROR = 3e-4

/** Rows of zeros have no variance without noise. */
const LEAST_VARIANCE = 1e-20

/** The rows of one sequence as they left, as whoever receives them knows them. */
export interface ReleasedRows {
  readonly protection: Protection
  /** Decoded, float32 [tokens, hidden]. */
  readonly rows: DeviceTensor
  /** The reciprocal of the variance of each coordinate about what was clipped, by row [tokens]. */
  readonly precision: Tensor
}

/** Releases hidden states [tokens, hidden] as a client does, and keeps what left here. The scope owns the rows. */
export async function releaseForAudit (
  scope: Scope,
  device: Device,
  boundary: Boundary,
  { hidden, protection, rounding, mismatch }: {
    readonly hidden: DeviceTensor
    readonly protection: Protection
    readonly rounding: Encoding
    /** The variance of what the rows of an attacker's own bottom differ by. */
    readonly mismatch: number
  }
): Promise<ReleasedRows> {
  const { tensors } = await boundary.protect(hidden, protection)
  const rows = scope.own(await boundary.decode(tensors))
  const [count = 0, width = 0] = rows.shape
  const values = (await device.download(rows)).data as Float32Array
  const deviation = noiseDeviation(protection, width)
  return {
    protection,
    rows,
    precision: float32([count], Array.from({ length: count }, (_, row) => {
      let [sum, largest] = [0, 0]
      for (let i = row * width; i < (row + 1) * width; i++) {
        sum += values[i]! ** 2
        largest = Math.max(largest, Math.abs(values[i]!))
      }
      const meanSquare = sum / width
      const computed = roundingVariance(rounding, { meanSquare, largest }) + meanSquare * COMPUTING_ERROR ** 2
      return 1 / Math.max(deviation ** 2 + mismatch + computed, LEAST_VARIANCE)
    }))
  }
}

/**
 * Prepares the logarithms of the Gaussian likelihoods, up to a constant of each position, of candidates' hidden states `states` [rows,
 * hidden] under several releases of the same sequence. `places` int32 [rows] has the position of each. Each release gives an output
 * `likelihood.${number}` [rows]. Candidates are clipped as they would have been, where there is a clip. Rounding for the wire comes after
 * the noise, and is a part of the variance; without noise it is a part of what a candidate would have left as.
 */
export async function likelihoodCalls (
  device: Device,
  states: AnyTensor | Deferred,
  places: Tensor,
  releases: readonly ReleasedRows[],
  { hidden, rounding, clip }: { readonly hidden: number, readonly rounding: Encoding, readonly clip: number | null }
): Promise<Deferred> {
  const bare = releases.map(({ protection: { noise } }) => noise === 0)
  const executable = await compiled(
    device,
    `audit.likelihood ${hidden} ${rounding} ${bare.map(Number).join('')}`,
    () => likelihoodProgram(hidden, rounding, bare)
  )
  const { calls, input } = continued(states)
  const call: ProgramCall = {
    executable,
    inputs: {
      rows: input,
      // No row is longer than infinity.
      clip: float32([], [clip ?? Infinity]),
      places,
      ...Object.fromEntries<AnyTensor>(releases.flatMap(({ rows, precision }, i) => [[`released.${i}`, rows], [`precision.${i}`, precision]]))
    }
  }
  return { calls: [...calls, call], output: 'likelihood.0' }
}

function likelihoodProgram (hidden: number, rounding: Encoding, bare: readonly boolean[]): Program {
  const graph = new Graph()
  const { clipped } = clippedRows(graph, hidden)
  const places = graph.input('places', 'int32', ['rows'])
  const rounded = throughRounding(rounding, clipped)
  for (const [i, isBare] of bare.entries()) {
    const released = gatherRows(graph.input(`released.${i}`, 'float32', ['tokens', hidden]), places)
    const precision = gatherRows(graph.input(`precision.${i}`, 'float32', ['tokens']), places)
    const distance = sub(released, isBare ? rounded : clipped)
    graph.output(`likelihood.${i}`, mul(mul(reduceSum(mul(distance, distance), [1]), precision), -0.5))
  }
  return program('audit-likelihood', graph)
}

/** A sum of squares of noise, over the variance that each should have. */
export interface NoiseSum {
  sum: number
  count: number
}

/** Adds the squares of the differences of released rows from the clipped ones, over the variance of each. */
export function addNoise (sum: NoiseSum, clean: Tensor, released: Tensor, { protection: { clip }, precision }: ReleasedRows): void {
  const [rows = 0, width = 0] = clean.shape
  const [before, after, precisions] = [clean.data as Float32Array, released.data as Float32Array, precision.data as Float32Array]
  for (let row = 0; row < rows; row++) {
    let squares = 0
    for (let i = row * width; i < (row + 1) * width; i++) squares += before[i]! ** 2
    const norm = Math.sqrt(squares)
    const scale = clip !== null && norm > clip ? clip / norm : 1
    let difference = 0
    for (let i = row * width; i < (row + 1) * width; i++) difference += (after[i]! - scale * before[i]!) ** 2
    sum.sum += difference * precisions[row]!
    sum.count += width
  }
}
