import { SeededRandom } from '../../random.ts'
import { IGNORED_TARGET, type Batch, type Batches } from '../../text/batches.ts'
import type { Example } from '../../text/dataset.ts'

type Sequences = Pick<Batch, 'ids' | 'targets'>

/** A model that tells its loss. */
export interface Judge {
  /** Computes the loss of each sequence, summed over its tokens, in nats. */
  losses (sequences: Sequences): Promise<ReadonlyArray<{ readonly lossSum: number }>>
}

export interface StepOptions {
  readonly learningRate: number
  readonly maxGradientNorm: number | null
}

/** A model that learns. */
export interface Learner {
  /** Takes a step on the mean loss over the tokens of all batches. */
  step (batches: readonly Sequences[], options: StepOptions): Promise<unknown>
}

/** Sequences whose losses are computed in one run. */
const RUN_SEQUENCES = 64

export interface CanaryOptions {
  /** The tokens before each secret. */
  readonly prefix: readonly number[]
  /** Tokens that secrets are drawn from, at random. */
  readonly alphabet: readonly number[]
  /** Tokens of a secret. */
  readonly length: number
  /** Secrets that are planted, and as many that are drawn alike and are not. */
  readonly count: number
  /** Secrets that nobody plants, by which the others are ranked. */
  readonly references: number
  readonly seed: string
}

/** Secrets that are planted in a text, and such as are not. */
export interface Canaries extends Pick<CanaryOptions, 'prefix'> {
  readonly planted: ReadonlyArray<readonly number[]>
  readonly unplanted: ReadonlyArray<readonly number[]>
  readonly references: ReadonlyArray<readonly number[]>
}

/** Draws different secrets. Throws RangeError where there are not so many. */
export function drawCanaries ({ prefix, alphabet, length, count, references, seed }: CanaryOptions): Canaries {
  const wanted = 2 * count + references
  if (prefix.length === 0 || wanted > alphabet.length ** length / 2)
    throw new RangeError(`${wanted} different secrets of ${length} of ${alphabet.length} tokens behind ${prefix.length} others are too many`)
  const random = new SeededRandom(`canaries/${seed}`)
  const drawn = new Map<string, number[]>()
  while (drawn.size < wanted) {
    const secret = Array.from({ length }, () => alphabet[random.below(alphabet.length)]!)
    drawn.set(String(secret), secret)
  }
  const all = [...drawn.values()]
  return { prefix, planted: all.slice(0, count), unplanted: all.slice(count, 2 * count), references: all.slice(2 * count) }
}

/** Makes records of the planted secrets, each so many times. */
export function canaryExamples ({ prefix, planted }: Canaries, times: number): Example[] {
  return planted.flatMap((secret) => Array.from({ length: times }, (): Example => {
    const ids = Int32Array.from([...prefix, ...secret])
    return { ids, lossMask: Uint8Array.from(ids, (_, i) => Number(i > 0)) }
  }))
}

/** How far secrets are exposed, in bits: `most` where they are likelier than all references. */
export interface Exposures {
  readonly planted: readonly number[]
  readonly unplanted: readonly number[]
  readonly most: number
}

/**
 * Computes the exposure of secrets by a trained model (Carlini et al., The Secret Sharer, 2019): the logarithm to base 2 of the number of
 * references and the secret itself, less that of the rank of the secret among them by its loss behind the prefix. A secret that the model
 * knows nothing of has 1.4 bits in the mean.
 */
export async function exposuresBy (model: Judge, { prefix, planted, unplanted, references }: Canaries): Promise<Exposures> {
  const lossesOf = async (secrets: ReadonlyArray<readonly number[]>): Promise<number[]> => await secretLosses(model, prefix, secrets)
  const known = await lossesOf(references)
  const exposures = (losses: readonly number[]): number[] => losses.map((loss) => exposureOf(loss, known))
  return {
    planted: exposures(await lossesOf(planted)), unplanted: exposures(await lossesOf(unplanted)), most: Math.log2(references.length + 1)
  }
}

/** Computes the exposure of a secret with this loss among references, in bits. Equal losses count as half a rank each. */
export function exposureOf (loss: number, references: readonly number[]): number {
  const rank = 1 + references.reduce((sum, other) => sum + (other < loss ? 1 : other === loss ? 0.5 : 0), 0)
  return Math.log2(references.length + 1) - Math.log2(rank)
}

/** Computes the loss of each secret behind the prefix, summed over its tokens, in nats. */
export async function secretLosses (
  model: Judge,
  prefix: readonly number[],
  secrets: ReadonlyArray<readonly number[]>
): Promise<number[]> {
  const losses: number[] = []
  for (let from = 0; from < secrets.length; from += RUN_SEQUENCES) {
    const some = secrets.slice(from, from + RUN_SEQUENCES)
    const found = await model.losses({
      ids: some.map((secret) => [...prefix, ...secret.slice(0, -1)]),
      targets: some.map((secret) => [...prefix.slice(1).map(() => IGNORED_TARGET), ...secret])
    })
    losses.push(...found.map(({ lossSum }) => lossSum))
  }
  return losses
}

/**
 * Has a model learn the texts of several contributors, each with one batch a round, whose gradients are summed: what a federation without
 * noise comes to, whatever its shape, with secure sums up to their rounding. Yields the rounds that are done.
 */
export async function * trainTogether (
  model: Learner,
  contributors: readonly Batches[],
  { rounds, ...options }: StepOptions & { readonly rounds: number },
  signal: AbortSignal
): AsyncGenerator<number> {
  const cursors = contributors.map(() => ({ epoch: 0, index: 0 }))
  for (let round = 0; round < rounds; round++) {
    signal.throwIfAborted()
    const taken = contributors.map((batches, i) => batches.at(cursors[i]!))
    for (const [i, { next }] of taken.entries()) cursors[i] = next
    await model.step(taken.map(({ batch }) => batch), options)
    yield round + 1
  }
}
