import { permutation } from '../random.ts'
import type { Example } from './dataset.ts'
import { DatasetError } from './errors.ts'

/** The target of a position whose prediction does not count. */
export const IGNORED_TARGET = -100

/** Where a run stands in its data: the next batch to take. Plain JSON, so that it can be saved with a snapshot. */
export interface Cursor {
  readonly epoch: number
  readonly index: number
}

/** Sequences to learn from, ragged: `ids[s][i]` is to be followed by `targets[s][i]`, which is a token id or -100. */
export interface Batch {
  readonly ids: number[][]
  readonly targets: number[][]
  readonly lengths: number[]
  /** How many targets count. */
  readonly tokens: number
}

export interface BatchOptions {
  readonly seed: string
  /** Sequences a batch; the last batch of an epoch may have fewer. */
  readonly sequences: number
  /** `padded`: one example a sequence, ragged here. `packed`: the examples, one after another, cut into windows. */
  readonly mode: 'packed' | 'padded'
  /** The length of a window in tokens; only for `packed`. */
  readonly windowLength?: number
}

interface Sequence {
  readonly ids: number[]
  readonly targets: number[]
}

/** The sequences of an epoch, in order, made when asked for. */
interface Plan {
  readonly count: number
  readonly sequence: (index: number) => Sequence
}

/**
 * Examples as an endless series of batches. Batch and order follow from the seed, the epoch and the index alone, so any cursor resumes
 * exactly.
 */
export class Batches {
  readonly #examples: readonly Example[]
  readonly #options: BatchOptions
  /** Tokens of the longest example. */
  readonly #longest: number
  #planned: { readonly epoch: number, readonly plan: Plan } | undefined

  /** Throws DatasetError when the options are impossible. */
  constructor (examples: readonly Example[], options: BatchOptions) {
    const { sequences, mode, windowLength } = options
    if (!examples.some(({ lossMask }) => lossMask.includes(1, 1))) throw new DatasetError('there is nothing to learn in these examples')
    if (!Number.isSafeInteger(sequences) || sequences < 1) throw new DatasetError(`${sequences} sequences a batch are impossible`)
    if (mode === 'packed' && !(Number.isSafeInteger(windowLength) && windowLength! >= 1))
      throw new DatasetError(`windows of ${windowLength} tokens are impossible`, 'give the window length in tokens')
    this.#examples = examples
    this.#options = options
    this.#longest = examples.reduce((longest, { ids }) => Math.max(longest, ids.length), 0)
  }

  /**
   * Returns how many batches this epoch has: the same for each when padded; when packed it can differ by what the windows without targets
   * fall on.
   */
  count (epoch: number): number {
    return Math.ceil(this.#plan(epoch).count / this.#options.sequences)
  }

  /** Returns the batch at a cursor, and the cursor of the one after it. Throws a RangeError for a cursor beyond its epoch. */
  at ({ epoch, index }: Cursor): { batch: Batch, next: Cursor } {
    const { count, sequence } = this.#plan(epoch)
    const first = index * this.#options.sequences
    if (!Number.isSafeInteger(index) || index < 0 || first >= count) throw new RangeError(`epoch ${epoch} has no batch ${index}`)
    const end = Math.min(first + this.#options.sequences, count)
    const sequences = Array.from({ length: end - first }, (_, i) => sequence(first + i))
    const batch = {
      ids: sequences.map(({ ids }) => ids),
      targets: sequences.map(({ targets }) => targets),
      lengths: sequences.map(({ ids }) => ids.length),
      tokens: sequences.reduce((total, { targets }) => total + targets.filter((id) => id !== IGNORED_TARGET).length, 0)
    }
    return { batch, next: end < count ? { epoch, index: index + 1 } : { epoch: epoch + 1, index: 0 } }
  }

  /**
   * Returns how many positions of an epoch's sequences can change, at most, where one of this batch's examples is replaced by one of the
   * same length. Packed examples share sequences with others, whose later positions depend on them.
   */
  changedByOne ({ lengths }: Pick<Batch, 'lengths'>): number {
    const { mode, windowLength } = this.#options
    if (mode === 'padded') return Math.max(...lengths)
    // An example that begins at the end of a window reaches into one more than its length fills.
    return (Math.ceil(this.#longest / windowLength!) + 1) * windowLength!
  }

  #plan (epoch: number): Plan {
    if (!Number.isSafeInteger(epoch) || epoch < 0) throw new RangeError(`there is no epoch ${epoch}`)
    if (this.#planned?.epoch !== epoch) {
      const order = permutation(this.#examples.length, `${this.#options.seed}/epoch/${epoch}`)
      this.#planned = {
        epoch,
        plan: this.#options.mode === 'packed' ? packed(this.#examples, order, this.#options.windowLength!) : padded(this.#examples, order)
      }
    }
    return this.#planned.plan
  }
}

/** Makes one sequence of each example; those without a counted target are left out. */
function padded (examples: readonly Example[], order: Uint32Array): Plan {
  const used = order.filter((i) => examples[i]!.lossMask.includes(1, 1))
  return { count: used.length, sequence: (index) => cut(examples[used[index]!]!, 0, Infinity) }
}

/** Joins all examples end to end and cuts them into windows; the last may be shorter, and those without a counted target are left out. */
function packed (examples: readonly Example[], order: Uint32Array, windowLength: number): Plan {
  const total = examples.reduce((sum, { ids }) => sum + ids.length, 0)
  const ids = new Int32Array(total)
  const lossMask = new Uint8Array(total)
  let at = 0
  for (const i of order) {
    const example = examples[i]!
    ids.set(example.ids, at)
    lossMask.set(example.lossMask, at)
    at += example.ids.length
  }
  const starts: number[] = []
  for (let start = 0; start + 1 < total; start += windowLength) {
    if (lossMask.subarray(start + 1, start + 1 + windowLength).includes(1)) starts.push(start)
  }
  return { count: starts.length, sequence: (index) => cut({ ids, lossMask }, starts[index]!, windowLength) }
}

/** Returns at most `length` positions from `start`, each with the token after it as its target. */
function cut ({ ids, lossMask }: Example, start: number, length: number): Sequence {
  const end = Math.min(start + length, ids.length - 1)
  return {
    ids: [...ids.subarray(start, end)],
    targets: Array.from(ids.subarray(start + 1, end + 1), (id, i) => lossMask[start + 1 + i] === 1 ? id : IGNORED_TARGET)
  }
}
