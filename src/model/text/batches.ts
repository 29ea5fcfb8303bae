import { permutation } from '../random.ts'
import type { Example } from './dataset.ts'
import { DatasetError } from './errors.ts'
import { sentExample, type OwnTokens, type SentExample } from './own-tokens.ts'

/** The target of a position whose prediction does not count. */
export const IGNORED_TARGET = -100

/** Where a run stands in its data: the next batch to take. Plain JSON, so that it can be saved with a snapshot. */
export interface Cursor {
  readonly epoch: number
  readonly index: number
}

/**
 * Sequences to learn from, ragged: `ids[s][i]` is to be followed by `targets[s][i]`, which is a token id or -100. Where words are withheld,
 * they are not among these: what a batch sends depends on the other words alone.
 */
export interface Batch {
  readonly ids: number[][]
  readonly targets: number[][]
  readonly lengths: number[]
  /** How many targets count. */
  readonly tokens: number
  /** The same sequences with what is withheld of them, where anything is. Sequences of which nothing is sent are here alone. */
  readonly own?: OwnTokens
}

export interface BatchOptions {
  readonly seed: string
  /** Sequences a batch; the last batch of an epoch may have fewer. */
  readonly sequences: number
  /** `padded`: one example a sequence, ragged here. `packed`: the examples, one after another, cut into windows. */
  readonly mode: 'packed' | 'padded'
  /** The length of a window in tokens that are sent; only for `packed`. */
  readonly windowLength?: number
  /** Tokens of a sequence at most, those included that are withheld: what a client's own blocks can take. No limit unless given. */
  readonly ownLength?: number
  /** Whether sequences are there of which nothing that counts is sent: they can be measured, and not be learnt from in a round. */
  readonly keepsUnsent?: boolean
}

interface Tokens {
  readonly ids: number[]
  readonly targets: number[]
}

interface Sequence extends Tokens {
  /** The sequence with what is withheld of it, where anything is, and the place of each of the tokens that are sent in it. */
  readonly own?: Tokens & { readonly places: readonly number[] }
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
  readonly #examples: readonly Text[]
  readonly #options: BatchOptions
  /** Tokens of the longest example that are sent. */
  readonly #longest: number
  #planned: { readonly epoch: number, readonly plan: Plan } | undefined

  /** Throws DatasetError when the options are impossible. */
  constructor (examples: readonly Example[], options: BatchOptions) {
    const { sequences, mode, windowLength } = options
    const texts = examples.map((whole): Text => ({ whole, sent: sentExample(whole) }))
    if (!texts.some((text) => isUsed(text, options))) throw new DatasetError('there is nothing to learn in these examples')
    if (!Number.isSafeInteger(sequences) || sequences < 1) throw new DatasetError(`${sequences} sequences a batch are impossible`)
    if (mode === 'packed' && !(Number.isSafeInteger(windowLength) && windowLength! >= 1))
      throw new DatasetError(`windows of ${windowLength} tokens are impossible`, 'give the window length in tokens')
    this.#examples = texts
    this.#options = options
    this.#longest = texts.reduce((longest, { sent: { ids } }) => Math.max(longest, ids.length), 0)
  }

  /**
   * Returns how many batches this epoch has: the same for each when padded; when packed it can differ by what the windows without targets
   * fall on.
   */
  count (epoch: number): number {
    return Math.ceil(this.#plan(epoch).count / this.#options.sequences)
  }

  /**
   * Returns the batch at a cursor, or the first `limit` of its sequences, and the cursor of the one after it. Throws a RangeError for a
   * cursor beyond its epoch.
   */
  at ({ epoch, index }: Cursor, limit = Infinity): { batch: Batch, next: Cursor } {
    const { count, sequence } = this.#plan(epoch)
    const first = index * this.#options.sequences
    if (!Number.isSafeInteger(index) || index < 0 || first >= count) throw new RangeError(`epoch ${epoch} has no batch ${index}`)
    const end = Math.min(first + this.#options.sequences, count)
    const batch = batchOf(Array.from({ length: Math.min(end - first, limit) }, (_, i) => sequence(first + i)))
    return { batch, next: end < count ? { epoch, index: index + 1 } : { epoch: epoch + 1, index: 0 } }
  }

  /**
   * Returns how many positions of an epoch's sequences can change, at most, where one of this batch's examples is replaced by one of the
   * same length. Packed examples share sequences with others, whose later positions depend on them.
   */
  changedByOne ({ lengths }: Pick<Batch, 'lengths'>): number {
    const { mode, windowLength } = this.#options
    if (mode === 'padded') return Math.max(0, ...lengths)
    // An example that begins at the end of a window reaches into one more than its length fills.
    return (Math.ceil(this.#longest / windowLength!) + 1) * windowLength!
  }

  #plan (epoch: number): Plan {
    if (!Number.isSafeInteger(epoch) || epoch < 0) throw new RangeError(`there is no epoch ${epoch}`)
    if (this.#planned?.epoch !== epoch) {
      const order = permutation(this.#examples.length, `${this.#options.seed}/epoch/${epoch}`)
      this.#planned = {
        epoch,
        plan: this.#options.mode === 'packed' ? packed(this.#examples, order, this.#options) : padded(this.#examples, order, this.#options)
      }
    }
    return this.#planned.plan
  }
}

/** A text, and what of it is sent. */
interface Text {
  readonly whole: Pick<Example, 'ids' | 'lossMask'>
  readonly sent: SentExample
}

/** Whether a text has something that can be learnt, or measured. */
function isUsed ({ whole, sent }: Text, { keepsUnsent = false }: Pick<BatchOptions, 'keepsUnsent'>): boolean {
  return (keepsUnsent ? whole : sent).lossMask.includes(1, 1)
}

/** Makes one sequence of each example; those without a counted target are left out. */
function padded (texts: readonly Text[], order: Uint32Array, options: BatchOptions): Plan {
  const used = order.filter((i) => isUsed(texts[i]!, options))
  return { count: used.length, sequence: (index) => sequenceOf(texts[used[index]!]!, 0, Infinity, options) }
}

/** Joins all examples and cuts them into windows; the last may be shorter, and those without a counted target are left out. */
function packed (texts: readonly Text[], order: Uint32Array, options: BatchOptions): Plan {
  const whole = joinedText(order, (i) => texts[i]!.whole)
  const text = texts.every(({ sent: { positions } }) => positions === undefined)
    ? { whole, sent: { ...whole, positions: undefined } }
    : { whole, sent: { ...joinedText(order, (i) => texts[i]!.sent), positions: joinedPositions(texts, order) } }
  const total = text.sent.ids.length
  const { windowLength, keepsUnsent = false } = options
  const starts: number[] = []
  for (let start = 0; start + 1 < total || (keepsUnsent && start === 0); start += windowLength!) {
    const [first, end] = keepsUnsent ? ownRange(text, start, windowLength!) : [start, Math.min(start + windowLength!, total - 1)]
    if ((keepsUnsent ? text.whole : text.sent).lossMask.subarray(first + 1, end + 1).includes(1)) starts.push(start)
  }
  return { count: starts.length, sequence: (index) => sequenceOf(text, starts[index]!, windowLength!, options) }
}

function joinedText (order: Uint32Array, part: (i: number) => Pick<Example, 'ids' | 'lossMask'>): Pick<Example, 'ids' | 'lossMask'> {
  const total = order.reduce((sum, i) => sum + part(i).ids.length, 0)
  const [ids, lossMask] = [new Int32Array(total), new Uint8Array(total)]
  let at = 0
  for (const i of order) {
    const example = part(i)
    ids.set(example.ids, at)
    lossMask.set(example.lossMask, at)
    at += example.ids.length
  }
  return { ids, lossMask }
}

/** Returns where the tokens that are sent stand in all texts end to end. */
function joinedPositions (texts: readonly Text[], order: Uint32Array): Int32Array {
  const joined = new Int32Array(order.reduce((sum, i) => sum + texts[i]!.sent.ids.length, 0))
  let [at, start] = [0, 0]
  for (const i of order) {
    const { whole, sent: { ids, positions } } = texts[i]!
    for (let token = 0; token < ids.length; token++) joined[at++] = start + (positions?.[token] ?? token)
    start += whole.ids.length
  }
  return joined
}

/** Returns at most `length` sent positions from `start`, each with the token after it as its target, and what is withheld among them. */
function sequenceOf (text: Text, start: number, length: number, { ownLength = Infinity }: BatchOptions): Sequence {
  const { whole, sent } = text
  const { positions } = sent
  const end = Math.min(start + length, sent.ids.length - 1)
  const tokens = cut(sent, start, end)
  if (positions === undefined) return tokens
  const [first, last] = ownRange(text, start, length)
  const own = cut(whole, first, Math.min(last, first + ownLength))
  if (own.ids.length === tokens.ids.length && tokens.ids.every((_, i) => positions[start + i] === first + i)) return tokens
  return { ...tokens, own: { ...own, places: tokens.ids.map((_, i) => positions[start + i]! - first) } }
}

/**
 * Returns the positions [first, end) of a whole text that go with at most `length` sent ones from `start` on. What is withheld goes with
 * the token before it, and at the beginning of the text with the first one.
 */
function ownRange ({ whole, sent: { ids, positions } }: Text, start: number, length: number): [number, number] {
  const last = whole.ids.length - 1
  const place = (token: number): number => positions?.[token] ?? token
  return [start === 0 ? 0 : place(start), start + length < ids.length - 1 ? place(start + length) : last]
}

/** Returns the positions [start, end), each with the token after it as its target. */
function cut ({ ids, lossMask }: Pick<Example, 'ids' | 'lossMask'>, start: number, end: number): Tokens {
  return {
    ids: [...ids.subarray(start, Math.max(start, end))],
    targets: Array.from(
      ids.subarray(start + 1, Math.max(start, end) + 1),
      (id, i) => lossMask[start + 1 + i] === 1 ? id : IGNORED_TARGET
    )
  }
}

function batchOf (sequences: readonly Sequence[]): Batch {
  const sent = sequences.filter(({ ids }) => ids.length > 0)
  const batch = {
    ids: sent.map(({ ids }) => ids),
    targets: sent.map(({ targets }) => targets),
    lengths: sent.map(({ ids }) => ids.length),
    tokens: countedOf(sent)
  }
  return sequences.every(({ own }) => own === undefined) ? batch : { ...batch, own: ownTokensOf(sequences) }
}

function countedOf (sequences: readonly Tokens[]): number {
  return sequences.reduce((total, { targets }) => total + targets.filter((id) => id !== IGNORED_TARGET).length, 0)
}

/** Lists every token of sequences, with the rows that are sent of them. */
function ownTokensOf (sequences: readonly Sequence[]): OwnTokens {
  const own = sequences.map(({ ids, targets, own }) => own ?? { ids, targets, places: [...ids.keys()] })
  const total = own.reduce((sum, { ids }) => sum + ids.length, 0)
  const [sentRows, isSent] = [new Int32Array(total), new Uint8Array(total)]
  let [at, firstRow] = [0, 0]
  for (const { ids, places } of own) {
    let next = 0
    for (let token = 0; token < ids.length; token++, at++) {
      if (places[next] === token) {
        isSent[at] = 1
        next++
      }
      sentRows[at] = next === 0 ? -1 : firstRow + next - 1
    }
    firstRow += places.length
  }
  return { ids: own.map(({ ids }) => ids), targets: own.map(({ targets }) => targets), tokens: countedOf(own), sentRows, isSent }
}
