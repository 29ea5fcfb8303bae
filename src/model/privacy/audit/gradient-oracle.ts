import type { Encoding } from '../../../encoding.ts'
import { int32, type Tensor } from '../../../tensor.ts'
import { likeliest } from '../../generation/sampling.ts'
import { Graph } from '../../graph/graph.ts'
import { gatherRows } from '../../graph/operators/index.ts'
import { program } from '../../graph/program.ts'
import { compiled } from '../../runtime/compiled.ts'
import type { Device, DeviceTensor } from '../../runtime/device.ts'
import { Scope } from '../../runtime/scope.ts'
import type { Boundary, Protection } from '../boundary.ts'
import { addNoise, likelihoodCalls, releaseForAudit, type ReleasedRows } from './likelihood.ts'
import type { OracleOutcomes } from './oracle.ts'
import { priorOutcome, tokenOutcome } from './posterior.ts'
import type { Prior } from './prior.ts'

/** Rows that the gradients of one run have, about: those of several candidates, each with all rows of the sequence. */
const RUN_ROWS = 4096

export interface GradientOracleOptions {
  readonly device: Device
  readonly boundary: Boundary
  readonly rounding: Encoding
  readonly hidden: number
  /** Computes the rows [tokens, hidden] that enter the top for a sequence. The attack frees them. */
  readonly enter: (sequence: readonly number[]) => Promise<DeviceTensor>
  /** Computes the gradient of the summed loss for rows [sum of lengths, hidden] that enter the top. The attack frees it. */
  readonly gradient: (rows: DeviceTensor, sequences: ReadonlyArray<readonly number[]>, targets: number[][]) => Promise<DeviceTensor>
  readonly prior: Prior
  readonly clip: number | null
  readonly protections: readonly Protection[]
  /** Labels that are tried for each token: those that the prior holds likeliest. */
  readonly candidates: number
}

/** A sequence with the label of each token, and the positions whose labels are attacked. */
export interface LabelledSequence {
  readonly ids: readonly number[]
  readonly targets: readonly number[]
  readonly positions: readonly number[]
}

/**
 * Attacks the labels of sequences by the gradients that leave, as whoever knows the client's top, all rows that enter it, and all labels
 * but one can: the gradient of every candidate in its place is computed by the client's own programs, and compared with what was released
 * over all rows. Yields the number of labels attacked so far.
 */
export async function * attackGradients (
  options: GradientOracleOptions,
  sequences: readonly LabelledSequence[],
  signal: AbortSignal
): AsyncGenerator<number, OracleOutcomes> {
  const { device, protections, prior, candidates } = options
  const outcomes: OracleOutcomes = {
    priors: [], released: protections.map(() => []), noise: protections.map(() => ({ sum: 0, count: 0 }))
  }
  for (const sequence of sequences) {
    using scope = new Scope(device)
    const rows = scope.own(await options.enter(sequence.ids))
    const releases = await releaseGradients(scope, options, sequence, rows, outcomes)
    const wanted = new Set(sequence.positions)
    let position = -1
    for await (const logPriors of prior.next([...sequence.ids, sequence.targets.at(-1)!])) {
      if (!wanted.has(++position)) continue
      signal.throwIfAborted()
      const truth = sequence.targets[position]!
      const ids = candidatesOf(logPriors, truth, candidates)
      const likelihoods = await labelLikelihoods(options, { sequence, rows, releases, position, ids })
      outcomes.priors.push(priorOutcome(logPriors, truth))
      for (const [release, logLikelihoods] of likelihoods.entries())
        outcomes.released[release]!.push(tokenOutcome({ truth, ids, logLikelihoods, logPriors }))
      yield outcomes.priors.length
    }
  }
  return outcomes
}

async function releaseGradients (
  scope: Scope,
  { device, boundary, rounding, gradient, protections }: GradientOracleOptions,
  { ids, targets }: LabelledSequence,
  rows: DeviceTensor,
  { noise }: OracleOutcomes
): Promise<ReleasedRows[]> {
  const hidden = scope.own(await gradient(rows, [ids], [[...targets]]))
  const clean = await device.download(hidden)
  const releases: ReleasedRows[] = []
  for (const [i, protection] of protections.entries()) {
    const release = await releaseForAudit(scope, device, boundary, { hidden, protection, rounding, mismatch: 0 })
    addNoise(noise[i]!, clean, await device.download(release.rows), release)
    releases.push(release)
  }
  return releases
}

/** Returns the labels that the prior holds likeliest, the right one always among them. */
function candidatesOf (logPriors: Float32Array, truth: number, count: number): Uint32Array {
  const ids = likeliest(logPriors, Math.min(count, logPriors.length)).slice()
  if (!ids.includes(truth)) ids[ids.length - 1] = truth
  return ids
}

/** Computes how likely what was released is under each label of one token: one array [labels] for each release. */
async function labelLikelihoods (
  { device, rounding, hidden, clip, gradient }: GradientOracleOptions,
  { sequence: { ids, targets }, rows, releases, position, ids: labels }: {
    readonly sequence: LabelledSequence
    readonly rows: DeviceTensor
    readonly releases: readonly ReleasedRows[]
    readonly position: number
    readonly ids: Uint32Array
  }
): Promise<Float32Array[]> {
  const length = ids.length
  const perRun = Math.max(1, Math.floor(RUN_ROWS / length))
  const likelihoods = releases.map(() => new Float32Array(labels.length))
  for (let from = 0; from < labels.length; from += perRun) {
    using scope = new Scope(device)
    const some = labels.subarray(from, from + perRun)
    const copies = scope.own(await repeated(device, rows, some.length))
    const changed = Array.from(some, (label) => targets.with(position, label))
    const gradients = scope.own(await gradient(copies, changed.map(() => ids), changed))
    const places = int32([some.length * length], Array.from({ length: some.length * length }, (_, row) => row % length))
    const { calls } = await likelihoodCalls(device, gradients, places, releases, { hidden, rounding, clip })
    const results = await device.runSequence(calls)
    for (const [release, all] of likelihoods.entries()) {
      const byRow = (results[`likelihood.${release}`] as Tensor).data as Float32Array
      // A label changes the gradient of its own row and, by attention, of those before it.
      for (let label = 0; label < some.length; label++)
        for (let row = 0; row <= position; row++) all[from + label]! += byRow[label * length + row]!
    }
  }
  return likelihoods
}

/** Copies rows [rows, hidden] several times, one copy after another. The caller frees the result. */
async function repeated (device: Device, rows: DeviceTensor, times: number): Promise<DeviceTensor> {
  const [count = 0, width = 0] = rows.shape
  const executable = await compiled(device, `audit.repeat ${width}`, () => {
    const graph = new Graph()
    graph.output('copies', gatherRows(graph.input('rows', 'float32', ['rows', width]), graph.input('indices', 'int32', ['copies'])))
    return program('audit-repeat', graph)
  })
  const indices = int32([times * count], Array.from({ length: times * count }, (_, i) => i % count))
  return (await executable.run({ rows, indices }, { keep: 'all' })).copies as DeviceTensor
}
