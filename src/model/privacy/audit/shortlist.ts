import { float32, type Tensor } from '../../../tensor.ts'
import { likeliest } from '../../generation/sampling.ts'
import { Graph } from '../../graph/graph.ts'
import { matmul, mul, reduceSum, reshape, sub } from '../../graph/operators/index.ts'
import { program, type Program } from '../../graph/program.ts'
import { compiled } from '../../runtime/compiled.ts'
import type { DeviceTensor } from '../../runtime/device.ts'
import { Scope } from '../../runtime/scope.ts'
import type { CandidateStates } from './candidate-states.ts'
import type { ReleasedRows } from './likelihood.ts'

/** Tokens by which it is measured, at each position, how far the blocks move a token from its embedding. */
const PROBES = 32

/** The share of a shortlist that is for the tokens that the prior holds likeliest, whatever was released. */
const PRIOR_SHARE = 0.25

/** Embeddings that one run has. */
const RUN_EMBEDDINGS = 8192

export interface ShortlistPosition {
  readonly position: number
  /** By token id. */
  readonly logPriors: Float32Array
}

/**
 * Chooses candidates for the tokens at some positions of a sequence where the whole vocabulary takes too long: those whose embedding, moved
 * as the blocks move the tokens that the prior holds likeliest there, is nearest to what was released, weighed with the prior; and those
 * that the prior holds likeliest. Returns the ids [count] of each position; the token that it is is always among them.
 */
export async function shortlists (
  states: CandidateStates,
  ids: readonly number[],
  release: ReleasedRows,
  positions: readonly ShortlistPosition[],
  count: number
): Promise<Uint32Array[]> {
  const scores = await matches(states, await movedRows(states, ids, release, positions))
  const { vocabularySize } = states.weights.model
  return positions.map(({ position, logPriors }, i) => {
    const weighed = scores.subarray(i * vocabularySize, (i + 1) * vocabularySize)
    const precision = Number(release.precision.data[position])
    for (let id = 0; id < vocabularySize; id++) weighed[id] = weighed[id]! * precision + logPriors[id]!
    const chosen = new Set([ids[position]!, ...likeliest(logPriors, Math.ceil(count * PRIOR_SHARE))])
    for (const id of likeliest(weighed, Math.min(count, vocabularySize))) {
      if (chosen.size >= count) break
      chosen.add(id)
    }
    return Uint32Array.from(chosen)
  })
}

/** Computes what was released at each position less the mean move of its probes [positions, hidden]. */
async function movedRows (
  states: CandidateStates,
  ids: readonly number[],
  { rows }: ReleasedRows,
  positions: readonly ShortlistPosition[]
): Promise<Tensor> {
  const { device, model: { hiddenSize } } = states.weights
  const probes = positions.flatMap(({ position, logPriors }) => [...likeliest(logPriors, PROBES)].map((id) => ({ position, id })))
  using scope = new Scope(device)
  const { calls, output } = await states.states(ids, probes)
  const found = scope.own((await device.runSequence(calls, { keep: [output] }))[output] as DeviceTensor)
  const after = (await device.download(found)).data as Float32Array
  const before = (await device.download(scope.own(await states.embeddings(probes.map(({ id }) => id))))).data as Float32Array
  const released = (await device.download(rows)).data as Float32Array
  const moved = new Float32Array(positions.length * hiddenSize)
  for (const [i, { position }] of positions.entries()) {
    for (let j = 0; j < hiddenSize; j++) {
      let move = 0
      for (let probe = i * PROBES; probe < (i + 1) * PROBES; probe++)
        move += after[(ids.length + probe) * hiddenSize + j]! - before[probe * hiddenSize + j]!
      moved[i * hiddenSize + j] = released[position * hiddenSize + j]! - move / PROBES
    }
  }
  return float32([positions.length, hiddenSize], moved)
}

/** Computes the negative halves of squared distances of all embeddings from rows, up to a constant of each row: [rows * vocabulary]. */
async function matches (states: CandidateStates, rows: Tensor): Promise<Float32Array> {
  const { device, model: { hiddenSize, vocabularySize } } = states.weights
  const executable = await compiled(device, `audit.match ${hiddenSize}`, () => matchProgram(hiddenSize))
  const count = rows.shape[0]!
  const scores = new Float32Array(count * vocabularySize)
  for (let from = 0; from < vocabularySize; from += RUN_EMBEDDINGS) {
    using scope = new Scope(device)
    const some = Math.min(RUN_EMBEDDINGS, vocabularySize - from)
    const embeddings = scope.own(await states.embeddings(Array.from({ length: some }, (_, i) => from + i)))
    const found = ((await executable.run({ rows, embeddings })).scores as Tensor).data as Float32Array
    for (let row = 0; row < count; row++) scores.set(found.subarray(row * some, (row + 1) * some), row * vocabularySize + from)
  }
  return scores
}

function matchProgram (hidden: number): Program {
  const graph = new Graph()
  const rows = graph.input('rows', 'float32', ['rows', hidden])
  const embeddings = graph.input('embeddings', 'float32', ['tokens', hidden])
  const norms = reshape(reduceSum(mul(embeddings, embeddings), [1]), [1, 'tokens'])
  graph.output('scores', sub(matmul(rows, embeddings, { transposeB: true }), mul(norms, 0.5)))
  return program('audit-match', graph)
}
