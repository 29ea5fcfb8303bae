import { MidspanError } from '../../errors.ts'
import { SeededRandom } from '../random.ts'
import { adjustLogits, changesLogits, type LogitAdjustments } from './logit-adjustments.ts'

/** Thrown for a sampling option out of its range, and for logits that are not numbers. */
export class SamplingError extends MidspanError {
  constructor (message: string, next?: string) {
    super('E_SAMPLING', message, { next })
  }
}

export interface SamplingOptions extends LogitAdjustments {
  /** The divisor of the logits, 1 by default; 0 chooses the likeliest token. */
  readonly temperature?: number
  /** The number of likeliest tokens that are candidates; 0, the default, makes all tokens candidates. */
  readonly topK?: number
  /** The fewest likeliest tokens whose probabilities reach this sum are candidates; 1, the default, makes all tokens candidates. */
  readonly topP?: number
  /** The same seed, options and logits give the same tokens. */
  readonly seed: string
}

/**
 * Chooses the token at position `step` of a sequence from its logits [vocabulary]. The random number of a token follows from the seed, the
 * step and the token alone: an interrupted generation can go on with the same tokens, and logits that differ by little give the same token
 * nearly always. With penalties, the steps come in order: the tokens that were generated before a step are those that the sampler chose
 * last at the steps before it.
 */
export type Sampler = (logits: Float32Array, step: number) => number

/** The number of likeliest tokens in which the nucleus of `topP` is looked for first; larger numbers follow. */
const firstNucleus = 256

/** A bound on token ids: an id of 21 bits and a logit of 32 bits fit in one float64, which is sorted. */
const maxVocabulary = 2 ** 21

/**
 * Checks the options and returns a sampler that applies biases and penalties, temperature, top-k and top-p in this order, as transformers
 * does. Throws SamplingError for an option out of range.
 */
export function createSampler (options: SamplingOptions): Sampler {
  const choose = createChooser(options)
  if (!changesLogits(options)) return choose
  const chosen: number[] = []
  return (logits, step) => {
    const id = choose(adjustLogits(logits, chosen.slice(0, step), options), step)
    chosen[step] = id
    return id
  }
}

function createChooser ({ temperature = 1, topK = 0, topP = 1, seed }: SamplingOptions): Sampler {
  if (!(temperature >= 0) || temperature === Infinity) throw new SamplingError(`temperature is ${temperature}; it must be 0 or more`)
  if (!Number.isSafeInteger(topK) || topK < 0) throw new SamplingError(`top-k is ${topK}; it must be a whole number, 0 or more`)
  if (!(topP > 0 && topP <= 1)) throw new SamplingError(`top-p is ${topP}; it must be above 0 and at most 1`)
  if (temperature === 0) return argmax
  return (logits, step) => {
    const weights = weigh(logits, temperature)
    return firstToArrive(weights, candidates(logits, weights, topK, topP), `${seed}/${step}`)
  }
}

/**
 * Draws a candidate with a probability in proportion to its weight: the one whose exponentially distributed time, -ln(u) / weight, is the
 * least. This is the token of the largest log(weight) + Gumbel(u), computed without the logarithm of the weights. `u` is uniform in (0, 1)
 * and follows from the seed and the token.
 */
function firstToArrive (weights: Float64Array, ids: Uint32Array | undefined, seed: string): number {
  const uniform = tokenUniforms(seed)
  const count = ids?.length ?? weights.length
  let [first, least] = [0, Infinity]
  for (let i = 0; i < count; i++) {
    const id = ids === undefined ? i : ids[i]!
    const weight = weights[id]!
    if (weight === 0) continue
    const u = uniform(id)
    // -ln(u) is at least 1 - u: most tokens are out without a logarithm.
    if (1 - u >= least * weight) continue
    const time = -Math.log(u) / weight
    if (time < least) [first, least] = [id, time]
  }
  return first
}

/** Returns a function from token ids to numbers that are uniform in (0, 1): MurmurHash3's mixing of the id with a key of 96 bits. */
function tokenUniforms (seed: string): (id: number) => number {
  const random = new SeededRandom(seed)
  const [a, b, c] = [random.nextUint32(), random.nextUint32(), random.nextUint32()]
  return (id) => {
    const mixed = mix(mix(id ^ a) ^ b)
    const more = mix(Math.imul(mixed, 0x9e3779b1) + c)
    return ((mixed >>> 0) * 2 ** 20 + (more >>> 12) + 0.5) * 2 ** -52
  }
}

/** A bijection of 32-bit words in which each bit of the result depends on each bit of the word. */
function mix (word: number): number {
  word = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35)
  return word ^ (word >>> 16)
}

/** Returns the index of the largest logit, the first among equals. Throws SamplingError if a logit is not a number or none is finite. */
export function argmax (logits: Float32Array): number {
  let best = -1
  let largest = -Infinity
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id]!
    if (value > largest) {
      largest = value
      best = id
    } else if (Number.isNaN(value)) {
      throw new SamplingError(`the logit of token ${id} is not a number`, 'check the model and the precision it is computed in')
    }
  }
  if (best < 0 || largest === Infinity)
    throw new SamplingError('no token has a finite largest logit', 'check the model and the precision it is computed in')
  return best
}

/** Returns each token's probability up to a common factor. */
function weigh (logits: Float32Array, temperature: number): Float64Array {
  if (logits.length > maxVocabulary) throw new SamplingError(`${logits.length} logits are more than any vocabulary has`)
  const peak = logits[argmax(logits)]!
  const weights = new Float64Array(logits.length)
  for (let id = 0; id < weights.length; id++) weights[id] = Math.exp((logits[id]! - peak) / temperature)
  return weights
}

/** Returns the ids of the candidates, or undefined where all tokens are candidates. */
function candidates (logits: Float32Array, weights: Float64Array, topK: number, topP: number): Uint32Array | undefined {
  if (topK > 0 && topK < logits.length) {
    const ids = likeliest(logits, topK)
    return topP === 1 ? ids : reaching(ids, weights, topP * sum(weights, ids)) ?? ids
  }
  if (topP === 1) return undefined
  const target = topP * sum(weights)
  for (let count = firstNucleus; count < logits.length; count *= 8) {
    const nucleus = reaching(likeliest(logits, count), weights, target)
    if (nucleus !== undefined) return nucleus
  }
  return reaching(likeliest(logits, logits.length), weights, target)
}

/** Returns the fewest leading ids whose weights sum to `target`, or undefined where the sum of all is less. */
function reaching (ids: Uint32Array, weights: Float64Array, target: number): Uint32Array | undefined {
  let reached = 0
  for (let i = 0; i < ids.length; i++) {
    reached += weights[ids[i]!]!
    if (reached >= target) return ids.subarray(0, i + 1)
  }
  return undefined
}

/**
 * Returns the ids of the `count` largest logits, largest first, equal logits in the order of their ids. A logit and its id share one
 * float64 (32 + 21 bits), because a typed array of numbers sorts many times faster than an array with a comparison function.
 */
export function likeliest (logits: Float32Array, count: number): Uint32Array {
  const threshold = count === logits.length ? -Infinity : kthLargest(logits, count)
  const kept = logits.reduce((total, value) => value >= threshold ? total + 1 : total, 0)
  const keys = new Float64Array(kept)
  const value = new Float32Array(1)
  const bits = new Int32Array(value.buffer)
  let at = 0
  for (let id = 0; id < logits.length; id++) {
    if (!(logits[id]! >= threshold)) continue
    value[0] = logits[id]! + 0
    const descending = bits[0]! < 0 ? bits[0]! >>> 0 : ~(bits[0]! | 0x80000000) >>> 0
    keys[at++] = descending * maxVocabulary + id
  }
  return Uint32Array.from(keys.sort().subarray(0, count), (key) => key % maxVocabulary)
}

/** Returns the k-th largest logit (Hoare's selection, on a copy). */
function kthLargest (logits: Float32Array, k: number): number {
  const values = logits.slice()
  let low = 0
  let high = values.length - 1
  while (low < high) {
    const pivot = values[(low + high) >>> 1]!
    let i = low
    let j = high
    while (i <= j) {
      while (values[i]! > pivot) i++
      while (values[j]! < pivot) j--
      if (i > j) break
      const held = values[i]!
      values[i++] = values[j]!
      values[j--] = held
    }
    if (k - 1 <= j) high = j
    else if (k - 1 >= i) low = i
    else break
  }
  return values[k - 1]!
}

/** Returns the sum of the weights of these ids, or of all weights where no ids are given. */
function sum (weights: Float64Array, ids?: Uint32Array): number {
  let total = 0
  const count = ids?.length ?? weights.length
  for (let i = 0; i < count; i++) total += weights[ids === undefined ? i : ids[i]!]!
  return total
}
