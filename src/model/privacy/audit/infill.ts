import { likeliest } from '../../generation/sampling.ts'
import { priorOutcome, type PriorOutcome, type TokenOutcome } from './posterior.ts'
import type { Prior, Reading } from './prior.ts'

/** Fillings of a gap that are tried: beyond the likeliest few by the words before, what stands behind hardly raises any. */
const FILLINGS = 24

/** Sent tokens behind a gap by which its fillings are told apart: what comes later tells little more of it. */
const BEHIND_TOKENS = 12

/** A sequence of which some tokens are withheld. */
export interface GappedSequence {
  /** All tokens. The first one is sent. */
  readonly ids: readonly number[]
  /** By token, 1 where it is sent. */
  readonly isSent: ArrayLike<number>
  /** Positions that are attacked, in order: the tokens there that are withheld are to be found. */
  readonly positions: readonly number[]
}

/** What an attack on withheld tokens found. */
export interface InfillOutcomes {
  /** What the prior says of each attacked token that is withheld, with all words before it known, the withheld ones among them. */
  readonly priors: PriorOutcome[]
  /** The same of the attacked tokens that are sent. */
  readonly sentPriors: PriorOutcome[]
  /**
   * By withheld token: `alone` is by the words before it, and `withPrior` by those behind it as well. The posterior is with the withheld
   * tokens before it known, so that the logarithms of a text add up to that of all its withheld tokens by the sent ones.
   */
  readonly outcomes: TokenOutcome[]
}

/** One way to fill a gap, with the logarithms of its probabilities by what stands before it, and of what stands behind it. */
export interface Filling {
  readonly ids: readonly number[]
  readonly logBefore: number
  readonly logBehind: number
}

/**
 * Guesses the withheld tokens of sequences from those that are sent, as whoever has the prior, the sent tokens and the places of the gaps
 * can: fillings of a gap by a beam search from left to right, weighed with how likely the sent words behind the gap are after each, by
 * Bayes' rule. What is guessed stands in the place of a gap when the next one is attacked. The right filling is always among those that
 * are tried, so that figures are rather too high than too low. Yields the number of gaps attacked so far.
 */
export async function * attackGaps (
  prior: Prior,
  sequences: readonly GappedSequence[],
  signal: AbortSignal
): AsyncGenerator<number, InfillOutcomes> {
  const found: InfillOutcomes = { priors: [], sentPriors: [], outcomes: [] }
  let gaps = 0
  for (const sequence of sequences) {
    await addPriors(prior, sequence, found)
    const { ids, isSent, positions } = sequence
    const wanted = new Set(positions)
    const [guessing, knowing] = [await prior.open(ids.length), await prior.open(ids.length)]
    try {
      const text: number[] = []
      let [read, knownRead, position, isRight] = [0, 0, 0, true]
      while (position < ids.length) {
        const end = runEnd(isSent, position)
        const run = ids.slice(position, end)
        if (isSent[position] === 1) {
          text.push(...run)
        } else {
          signal.throwIfAborted()
          const behind = ids.slice(end, Math.min(end + BEHIND_TOKENS, runEnd(isSent, end)))
          const after = (await guessing.read(read, text.slice(read))).at(-1)!
          const fillings = await fillingsOf({ reading: guessing, position, after }, run, behind)
          let known = fillings
          if (!isRight) {
            const knownAfter = (await knowing.read(knownRead, ids.slice(knownRead, position))).at(-1)!
            known = await fillingsOf({ reading: knowing, position, after: knownAfter }, run, behind)
            knownRead = position
          }
          for (const i of run.keys()) {
            if (!wanted.has(position + i)) continue
            found.outcomes.push({ ...gapOutcome(fillings, i, run), logPosterior: gapOutcome(known, i, run).logPosterior })
          }
          // The gap is read anew with the guess in it, together with what follows.
          read = position
          const guess = likeliestFilling(fillings).ids
          text.push(...guess)
          isRight &&= String(guess) === String(run)
          yield ++gaps
        }
        position = end
      }
    } finally {
      guessing.free()
      knowing.free()
    }
  }
  return found
}

/** Counts the gaps of sequences. */
export function gapsIn (sequences: ReadonlyArray<Pick<GappedSequence, 'ids' | 'isSent'>>): number {
  return sequences.reduce((sum, { ids, isSent }) => sum + ids.filter((_, i) => isSent[i] !== 1 && isSent[i - 1] === 1).length, 0)
}

/** Looks up what the prior says of the attacked tokens where all words before each are known. */
async function addPriors (prior: Prior, { ids, isSent, positions }: GappedSequence, { priors, sentPriors }: InfillOutcomes): Promise<void> {
  const wanted = new Set(positions)
  let position = 0
  for await (const logPriors of prior.next(ids)) {
    if (!wanted.has(++position)) continue
    (isSent[position] === 1 ? sentPriors : priors).push(priorOutcome(logPriors, ids[position]!))
  }
}

/** Returns where the run of tokens that are sent, or withheld, as the one at a position is, ends. */
function runEnd (isSent: ArrayLike<number>, position: number): number {
  let end = position + 1
  while (end < isSent.length && isSent[end] === isSent[position]) end++
  return Math.min(end, isSent.length)
}

/** A reading that has read `position` tokens, and what follows them by it [vocabulary]. */
interface Place {
  readonly reading: Reading
  readonly position: number
  readonly after: Float32Array
}

/** Finds the likeliest ways to fill a gap, the right one `truth` always among them, and weighs each by the tokens behind it. */
async function fillingsOf (place: Place, truth: readonly number[], behind: readonly number[]): Promise<Filling[]> {
  const beam = await beamOf(place, truth.length)
  const isFound = beam.some(({ ids }) => ids.every((id, i) => id === truth[i]))
  return await weighedFillings(place, isFound ? beam.map(({ ids }) => ids) : [...beam.map(({ ids }) => ids), truth], behind)
}

/** Computes how likely fillings of a gap are by what stands before it, and how likely the tokens behind it are after each. */
export async function weighedFillings (
  { reading, position, after }: Place,
  fillings: ReadonlyArray<readonly number[]>,
  behind: readonly number[]
): Promise<Filling[]> {
  const weighed: Filling[] = []
  for (const ids of fillings) {
    const whole = [...ids, ...behind]
    const next = [after, ...await reading.read(position, whole.slice(0, -1))]
    const logs = whole.map((id, i) => next[i]![id]!)
    weighed.push({ ids, logBefore: sumOf(logs.slice(0, ids.length)), logBehind: sumOf(logs.slice(ids.length)) })
  }
  return weighed
}

/** Finds the likeliest runs of `length` tokens, as far as a beam search does. */
async function beamOf ({ reading, position, after }: Place, length: number): Promise<Array<Pick<Filling, 'ids' | 'logBefore'>>> {
  let beam: Array<Pick<Filling, 'ids' | 'logBefore'>> = [{ ids: [], logBefore: 0 }]
  for (let step = 0; step < length; step++) {
    const longer: Array<Pick<Filling, 'ids' | 'logBefore'>> = []
    for (const { ids, logBefore } of beam) {
      const next = step === 0 ? after : (await reading.read(position, ids)).at(-1)!
      for (const id of likeliest(next, Math.min(FILLINGS, next.length)))
        longer.push({ ids: [...ids, id], logBefore: logBefore + next[id]! })
    }
    beam = longer.sort((a, b) => b.logBefore - a.logBefore).slice(0, FILLINGS)
  }
  return beam
}

function likeliestFilling (fillings: readonly Filling[]): Filling {
  return fillings.reduce((best, each) => each.logBefore + each.logBehind > best.logBefore + best.logBehind ? each : best)
}

/**
 * Computes what is said of the token at one place of a gap with the right filling `truth`. The likeliest token is by sums over all fillings
 * with it there; the posterior is with the right tokens before it in the gap known. Fillings that were not tried count as being followed by
 * what stands behind as seldom as the least likely one of those that were.
 */
export function gapOutcome (fillings: readonly Filling[], place: number, truth: readonly number[]): TokenOutcome {
  const before = ({ logBefore }: Filling): number => logBefore
  const both = ({ logBefore, logBehind }: Filling): number => logBefore + logBehind
  const known = fillings.reduce((sum, each) => sum + Math.exp(each.logBefore), 0)
  const rest = Math.log(Math.max(0, 1 - known)) + Math.min(...fillings.map(({ logBehind }) => logBehind))
  const beginning = (length: number): number =>
    logSum(fillings.filter(({ ids }) => ids.slice(0, length).every((id, i) => id === truth[i])).map(both))
  return {
    alone: likeliestAt(fillings, place, before) === truth[place],
    withPrior: likeliestAt(fillings, place, both) === truth[place],
    logPosterior: beginning(place + 1) - (place === 0 ? logSum([beginning(0), rest]) : beginning(place))
  }
}

/** Returns the token at a place of a gap that the fillings with it make likeliest together. */
function likeliestAt (fillings: readonly Filling[], place: number, logWeight: (filling: Filling) => number): number {
  const logWeights = new Map<number, number>()
  for (const filling of fillings) {
    const id = filling.ids[place]!
    logWeights.set(id, logSum([logWeights.get(id) ?? -Infinity, logWeight(filling)]))
  }
  return [...logWeights].reduce((best, each) => each[1] > best[1] ? each : best)[0]
}

/** Computes the logarithm of a sum of numbers from their logarithms. */
function logSum (logs: readonly number[]): number {
  const peak = Math.max(...logs)
  return peak === -Infinity ? peak : peak + Math.log(sumOf(logs.map((log) => Math.exp(log - peak))))
}

function sumOf (values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0)
}
