import type { Encoding } from '../../../encoding.ts'
import { int32, type Tensor } from '../../../tensor.ts'
import type { Deferred, Device, DeviceTensor } from '../../runtime/device.ts'
import { Scope } from '../../runtime/scope.ts'
import type { Boundary, Protection } from '../boundary.ts'
import type { Candidate, CandidateStates } from './candidate-states.ts'
import { addNoise, likelihoodCalls, releaseForAudit, type NoiseSum, type ReleasedRows } from './likelihood.ts'
import { priorOutcome, tokenOutcome, type PriorOutcome, type TokenOutcome } from './posterior.ts'
import type { Prior } from './prior.ts'
import { shortlists } from './shortlist.ts'

export interface OracleOptions {
  readonly device: Device
  readonly boundary: Boundary
  /** In which type rows cross. */
  readonly rounding: Encoding
  /** What whoever attacks computes candidates with: the client's own bottom, or that of the base model. */
  readonly states: CandidateStates
  /** Whether that is the client's own. For another one, how far it is from the client's is a part of the variance. */
  readonly isOwnBottom: boolean
  /** Computes the client's own hidden states [tokens, hidden] of a sequence, as they are released. The attack frees them. */
  readonly compute: (sequence: readonly number[]) => Promise<DeviceTensor>
  readonly prior: Prior
  /** The clip of the hidden states that leave; null where there is none. */
  readonly clip: number | null
  /** What protects the rows in each release: all with this clip, or, where there is none, with one that no row is longer than. */
  readonly protections: readonly Protection[]
  /** Where the whole vocabulary takes too long: how many candidates of each token are tried, and by which release they are chosen. */
  readonly shortlist?: { readonly count: number, readonly release: number } | undefined
}

/** The tokens of one sequence. */
export interface AttackedSequence {
  readonly ids: readonly number[]
  /** Positions that are attacked, in order, none of them the first: the tokens there are to be found. */
  readonly positions: readonly number[]
}

/** What an attack found, token by token. */
export interface OracleOutcomes {
  readonly priors: PriorOutcome[]
  /** By release, in the order of the protections. */
  readonly released: TokenOutcome[][]
  /** The squares of what was added to the rows of each release, over the variance that it should have. */
  readonly noise: NoiseSum[]
}

/**
 * Attacks sequences token by token as whoever knows all tokens before each can, together with the client's bottom: by the likelihood of
 * what was released under every token of the vocabulary, which is exact for Gaussian noise. Nobody who looks at the row of the token alone
 * is right more often. All releases are attacked at once, since the candidates' hidden states are the same. Yields the number of tokens
 * attacked so far.
 */
export async function * attackAsOracle (
  options: OracleOptions,
  sequences: readonly AttackedSequence[],
  signal: AbortSignal
): AsyncGenerator<number, OracleOutcomes> {
  const outcomes: OracleOutcomes = {
    priors: [], released: options.protections.map(() => []), noise: options.protections.map(() => ({ sum: 0, count: 0 }))
  }
  for (const sequence of sequences) {
    using scope = new Scope(options.device)
    const releases = await releaseAll(scope, options, sequence.ids, outcomes.noise)
    for await (const group of groupsOf(options, sequence)) {
      signal.throwIfAborted()
      const lists = await listsFor(options, sequence.ids, releases, group)
      const likelihoods = await groupLikelihoods(options, sequence.ids, releases, { group, lists })
      let from = 0
      for (const [i, { position, logPriors }] of group.entries()) {
        const truth = sequence.ids[position]!
        outcomes.priors.push(priorOutcome(logPriors, truth))
        const ids = lists?.[i]
        const end = from + (ids ?? logPriors).length
        for (const [release, all] of likelihoods.entries())
          outcomes.released[release]!.push(tokenOutcome({ truth, ids, logLikelihoods: all.subarray(from, end), logPriors }))
        from = end
      }
      yield outcomes.priors.length
    }
  }
  return outcomes
}

/** Computes the rows of a sequence, releases them once for each protection, and adds up what was added to them. */
async function releaseAll (
  scope: Scope,
  { device, boundary, rounding, states, isOwnBottom, compute, protections }: OracleOptions,
  ids: readonly number[],
  noise: readonly NoiseSum[]
): Promise<ReleasedRows[]> {
  const hidden = scope.own(await compute(ids))
  const clean = await device.download(hidden)
  const mismatch = isOwnBottom ? 0 : await meanSquareDifference(device, clean, await states.states(ids, []))
  const releases: ReleasedRows[] = []
  for (const [i, protection] of protections.entries()) {
    const release = await releaseForAudit(scope, device, boundary, { hidden, protection, rounding, mismatch })
    addNoise(noise[i]!, clean, await device.download(release.rows), release)
    releases.push(release)
  }
  return releases
}

/** Computes the mean square of the differences of rows from those of another bottom. */
async function meanSquareDifference (device: Device, { data }: Tensor, { calls, output }: Deferred): Promise<number> {
  const other = ((await device.runSequence(calls, { also: [output] }))[output] as Tensor).data as Float32Array
  return other.reduce((sum, value, i) => sum + (value - (data as Float32Array)[i]!) ** 2, 0) / other.length
}

interface Position {
  readonly position: number
  readonly logPriors: Float32Array
}

/** Yields positions of a sequence with what the prior says of each, as many at once as candidates for all of them fit a run. */
async function * groupsOf (
  { states, prior, shortlist }: OracleOptions,
  { ids, positions }: AttackedSequence
): AsyncGenerator<Position[]> {
  const each = shortlist?.count ?? states.weights.model.vocabularySize
  const most = Math.max(1, Math.floor(states.candidatesPerRun(ids.length) / each))
  const wanted = new Set(positions)
  let group: Position[] = []
  let position = 0
  for await (const logPriors of prior.next(ids)) {
    if (!wanted.has(++position)) continue
    group.push({ position, logPriors })
    if (group.length < most) continue
    yield group
    group = []
  }
  if (group.length > 0) yield group
}

/** Chooses the candidates at each position of a group; undefined where all tokens are candidates. */
async function listsFor (
  { states, shortlist }: OracleOptions,
  ids: readonly number[],
  releases: readonly ReleasedRows[],
  group: readonly Position[]
): Promise<Uint32Array[] | undefined> {
  if (shortlist === undefined) return undefined
  return await shortlists(states, ids, releases[shortlist.release]!, group, shortlist.count)
}

/** Computes the likelihoods of the candidates at the positions of a group, one position after another: one array for each release. */
async function groupLikelihoods (
  { device, states, rounding, clip }: OracleOptions,
  ids: readonly number[],
  releases: readonly ReleasedRows[],
  { group, lists }: { readonly group: readonly Position[], readonly lists: readonly Uint32Array[] | undefined }
): Promise<Float32Array[]> {
  const { vocabularySize, hiddenSize } = states.weights.model
  const all = lists === undefined ? Array.from({ length: vocabularySize }, (_, id) => id) : []
  const candidates = group.flatMap(({ position }, i) => Array.from(lists?.[i] ?? all, (id): Candidate => ({ position, id })))
  const likelihoods = releases.map(() => new Float32Array(candidates.length))
  const perRun = states.candidatesPerRun(ids.length)
  for (let from = 0; from < candidates.length; from += perRun) {
    const some = candidates.slice(from, from + perRun)
    const found = await candidateLikelihoods(device, { states, rounding, clip, hidden: hiddenSize }, { ids, candidates: some, releases })
    for (const [release, values] of found.entries()) likelihoods[release]!.set(values, from)
  }
  return likelihoods
}

/** Computes the likelihoods of candidates in a sequence under each of its releases: one array [candidates] for each. */
export async function candidateLikelihoods (
  device: Device,
  { states, ...settings }: Pick<OracleOptions, 'states' | 'rounding' | 'clip'> & { readonly hidden: number },
  { ids, candidates, releases }: {
    readonly ids: readonly number[]
    readonly candidates: readonly Candidate[]
    readonly releases: readonly ReleasedRows[]
  }
): Promise<Float32Array[]> {
  const places = int32([ids.length + candidates.length], [...ids.keys(), ...candidates.map(({ position }) => position)])
  const { calls } = await likelihoodCalls(device, await states.states(ids, candidates), places, releases, settings)
  const results = await device.runSequence(calls)
  return releases.map((_, i) => ((results[`likelihood.${i}`] as Tensor).data as Float32Array).subarray(ids.length))
}
