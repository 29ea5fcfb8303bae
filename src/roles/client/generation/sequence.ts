import { chunksOf } from '../../../model/generation/cache-size.ts'
import { CachedClientModel, type NextToken } from '../../../model/generation/cached-client-model.ts'
import { SamplingError } from '../../../model/generation/sampling.ts'
import type { MiddleMap } from '../../../model/generation/speculation/middle-map.ts'
import { rowsFromWire } from '../../../model/generation/speculation/wire-rows.ts'
import type { ModelWeights } from '../../../model/layers/weights.ts'
import type { Boundary, Protection, Release } from '../../../model/privacy/boundary.ts'
import type { AnyTensor, Deferred } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import type { Partition } from '../../../protocols/charter/schema.ts'
import { float32, joinTensorRows, type Tensor } from '../../../tensor.ts'
import { joined } from '../../middle/history.ts'
import { REPLAY_TOKENS } from '../../middle/route-cache.ts'
import type { CachedHiddenStates, Stage, StageCache } from '../../middle/stage.ts'
import type { ReleaseLedger } from '../release-ledger.ts'
import type { ReleasedText } from './released-text.ts'
import { joinedRows, SequenceReleases } from './sequence-releases.ts'

/** A client's end of the model and its boundary. */
export interface SequenceComponents {
  readonly weights: ModelWeights
  readonly boundary: Boundary
  /** What takes released hidden states through the middle. */
  readonly route: Pick<Stage, 'span' | 'openCache'>
  /** Counts what leaves. */
  readonly ledger: Pick<ReleaseLedger, 'record'>
  /** Learns from the states that pass, and drafts tokens. */
  readonly map?: MiddleMap | undefined
}

export interface SequenceSettings {
  readonly protection: Protection
  /** Whether the residual stream stays here, as in training. */
  readonly keepsStream: boolean
  readonly partition: Partition
  /** Tokens that the sequence can have. */
  readonly capacity: number
  /** Names the sequence in the ledger. */
  readonly text: string
}

/** A text that grows, as the generator makes it. */
export interface GrowingText {
  /** Tokens of the text that are through the model. */
  readonly length: number
  /** Tokens that may be sent. */
  readonly capacity: number
  /** Hidden states that were released so far for the first time. */
  readonly freshStates: number
  /** The tokens that were sent so far, and their hidden states as they were released. */
  readonly released: ReleasedText
  useMap (map: MiddleMap | undefined): void
  resume (prompt: readonly number[], before?: ReleasedText): readonly number[]
  grow (capacity: number, signal: AbortSignal): Promise<void>
  next (ids: readonly number[], options: { readonly guess: boolean }, signal: AbortSignal): Promise<Float32Array>
  verify (id: number, drafted: readonly number[], signal: AbortSignal): Promise<Float32Array[]>
  draft (id: number, count: number, choose: (logits: Float32Array, drafted: number) => number): Promise<readonly number[]>
  rewind (position: number): void
  close (): Promise<void>
}

/** One sequence that grows: this client's blocks at either end, and the middle over a route. */
export class Sequence implements GrowingText {
  readonly #weights: ModelWeights
  readonly #boundary: Boundary
  readonly #protection: Protection
  readonly #keepsStream: boolean
  readonly #ends: CachedClientModel
  readonly #route: SequenceComponents['route']
  readonly #releases: SequenceReleases
  #middle: StageCache
  #map: MiddleMap | undefined
  /** What left the middle in the last round trip, [rows, hidden], and its first position. */
  #left: { readonly from: number, readonly values: Float32Array } | undefined
  /** A token that was started before it was chosen, with its released hidden states. */
  #guessed: Omit<NextToken, 'logits'> | undefined

  private constructor (
    { weights, boundary, route, ledger, map }: SequenceComponents,
    { protection, keepsStream, text }: SequenceSettings,
    ends: CachedClientModel,
    middle: StageCache
  ) {
    this.#weights = weights
    this.#boundary = boundary
    this.#releases = new SequenceReleases(ledger, { protection, text })
    this.#route = route
    this.#protection = protection
    this.#keepsStream = keepsStream
    this.#ends = ends
    this.#middle = middle
    this.#map = map
  }

  /** Takes room for the sequence here and on the route. The caller closes it. */
  static async open (
    components: SequenceComponents,
    settings: SequenceSettings,
    signal: AbortSignal
  ): Promise<Sequence> {
    const { route, weights } = components
    const { partition, capacity } = settings
    const middle = await route.openCache(route.span, capacity, signal)
    try {
      return new Sequence(components, settings, await CachedClientModel.create(weights, partition, weights.model.maxPositions), middle)
    } catch (error) {
      await middle.close()
      throw error
    }
  }

  /** Tokens whose hidden states came back from the middle. */
  get length (): number { return this.#ends.length }

  /** Tokens that the sequence can have. */
  get capacity (): number { return this.#middle.capacity }

  /** Hidden states that were released so far for the first time. */
  get freshStates (): number { return this.#releases.fresh }

  /** Lets another map learn from the states that pass, and draft tokens. */
  useMap (map: MiddleMap | undefined): void {
    this.#map = map
    this.#left = undefined
  }

  /** The tokens so far, and their hidden states as they were released. */
  get released (): ReleasedText { return this.#releases.released }

  /**
   * Goes back to what a prompt begins with too, and returns the rest of it, which is to come next. Where that is nothing, the last token
   * is: its hidden state is sent again as it was released. `before` is a text that was released: what begins as it does is sent as it
   * was then.
   */
  resume (prompt: readonly number[], before?: ReleasedText): readonly number[] {
    this.#releases.before = before
    const common = this.released.commonLength(prompt)
    if (common === prompt.length) this.#releases.before = this.released.copy()
    const position = Math.min(common, prompt.length - 1)
    this.rewind(position)
    return prompt.slice(position)
  }

  /** Makes room for more tokens on the route: new caches there get what was released, as it was. */
  async grow (capacity: number, signal: AbortSignal): Promise<void> {
    const before = this.#middle
    this.#middle = await replayed(this.#route, this.released, capacity, signal)
    await before.close()
  }

  /**
   * Computes the logits [vocabulary] after these next tokens. With `guess`, the likeliest token is taken through this side's first blocks
   * in the same message to the device, so that its hidden states are there in case it is next.
   */
  async next (ids: readonly number[], { guess }: { readonly guess: boolean }, signal: AbortSignal): Promise<Float32Array> {
    const chunks = chunksOf(this.#weights.model, ids)
    for (const chunk of chunks.slice(0, -1)) await this.#pass(chunk, { guess: false }, signal)
    return await this.#pass(chunks.at(-1)!, { guess }, signal)
  }

  /**
   * Takes the next token `id` and drafted tokens after it through the model in one round trip. Returns the logits [vocabulary] after each
   * of them. The caller rewinds the sequence to what turned out to be next.
   */
  async verify (id: number, drafted: readonly number[], signal: AbortSignal): Promise<Float32Array[]> {
    const position = this.#ends.length
    const guessed = this.#takeGuessed([id])
    const release = guessed === undefined
      ? await this.#protected([id, ...drafted])
      : joinedReleases(guessed, await this.#protected(drafted))
    const sent = await this.#send(position, [id, ...drafted], release)
    const states = await this.#received(position, sent, await this.#middle.forward(sent.states, signal))
    return await this.#ends.logitsOfLast(1 + drafted.length, states, 1 + drafted.length)
  }

  /**
   * Drafts `count` tokens after `id`, the next one, with the learnt map in place of the middle; none where there is no map. `choose`
   * chooses each token by its logits.
   */
  async draft (id: number, count: number, choose: (logits: Float32Array, drafted: number) => number): Promise<readonly number[]> {
    const map = this.#map
    const before = this.#leftAt(this.#ends.length - 1)
    if (map?.isReady !== true || before === undefined) return []
    const guess = { predictCall: async (...states: Parameters<MiddleMap['predictCall']>) => await map.predictCall(...states), choose }
    try {
      return await this.#ends.draft(id, float32([1, before.length], before), count, guess)
    } catch (error) {
      // A map may predict anything, also what no token can be chosen from.
      if (error instanceof SamplingError) return []
      throw error
    }
  }

  /** Forgets every position from this one on, here and on the route. A server learns of it with the next hidden states. */
  rewind (position: number): void {
    this.#guessed = undefined
    this.#ends.rewind(position)
    this.#middle.rewind(position)
    this.released.truncate(position)
  }

  async #pass (ids: readonly number[], { guess }: { readonly guess: boolean }, signal: AbortSignal): Promise<Float32Array> {
    const boundary = this.#boundary
    const position = this.#ends.length
    const sent = await this.#send(position, ids, this.#takeGuessed(ids) ?? await this.#protected(ids))
    using scope = new Scope(this.#weights.device)
    const answering = this.#middle.forward(sent.states, signal)
    // The noise of the next token is drawn while the middle computes.
    const drawing = guess ? boundary.drawNoise(scope, this.#protection, 1) : Promise.resolve({})
    const [back, draw] = await both(answering, drawing)
    const states = await this.#received(position, sent, back)
    if (!guess) return await this.#ends.logits(states, ids.length)
    const { logits, ...guessed } = await this.#ends.logitsAndNext(
      states,
      ids.length,
      async (next) => await boundary.protecting(next, this.#protection, draw, { count: 1, keepRows: this.#keepsStream })
    )
    this.#guessed = guessed
    return logits
  }

  /** Takes the next tokens through the bottom and protects them. */
  async #protected (ids: readonly number[]): Promise<Release> {
    const options = { count: ids.length, keepRows: this.#keepsStream }
    return await this.#boundary.protect(await this.#ends.embed(ids), this.#protection, options)
  }

  /** Returns what leaves now for the tokens from a position on: what was released before for the same tokens is as it was. */
  async #send (position: number, ids: readonly number[], { tensors, rows }: Release): Promise<Sent> {
    return { states: await this.#releases.take(position, ids, tensors, this.#ends.contextAt(position)), rows }
  }

  /** Returns what the top goes on with, from what came back from the middle, and lets the map learn from it. */
  async #received (position: number, sent: Sent, back: readonly Tensor[]): Promise<AnyTensor | Deferred> {
    const { states: { tensors }, rows } = sent
    this.#observe(position, sent, back)
    const states = await this.#boundary.decoding(back)
    return rows === undefined ? states : await this.#boundary.keepStream(rows, tensors, states)
  }

  /** Lets the map learn from what entered the middle from a position on, and what the top goes on with. */
  #observe (position: number, { states: { tensors }, rows }: Sent, back: readonly Tensor[]): void {
    if (this.#map === undefined) return
    const before = this.#leftAt(position - 1)
    const released = rowsFromWire(tensors)
    const clean = rows?.data as Float32Array | undefined
    const left = rowsFromWire(back)
    const values = clean === undefined ? left : left.map((value, i) => value + clean[i]! - released[i]!)
    this.#map.observe(position, clean ?? released, values, before)
    this.#left = { from: position, values }
  }

  /** Returns what left the middle at a position [hidden], if that was in the last round trip. */
  #leftAt (position: number): Float32Array | undefined {
    if (this.#left === undefined) return undefined
    const { from, values } = this.#left
    const { hiddenSize } = this.#weights.model
    const at = (position - from) * hiddenSize
    return at >= 0 && at < values.length ? values.subarray(at, at + hiddenSize) : undefined
  }

  /** Returns the released hidden states of the next tokens where they were guessed; forgets the guess otherwise. */
  #takeGuessed (ids: readonly number[]): Release | undefined {
    const guessed = this.#guessed
    this.#guessed = undefined
    if (guessed === undefined) return undefined
    if (ids.length === 1 && ids[0] === guessed.id) return guessed.release
    this.#ends.rewind(this.#ends.length)
    return undefined
  }

  /** Frees the caches here and on the route. */
  async close (): Promise<void> {
    this.#ends.free()
    await this.#middle.close()
  }
}

/** Opens caches on a route that hold a text as it was released. The caller closes them. */
export async function replayed (
  route: SequenceComponents['route'],
  released: ReleasedText,
  capacity: number,
  signal: AbortSignal
): Promise<StageCache> {
  const middle = await route.openCache(route.span, capacity, signal)
  try {
    for (const states of joined(released.states, REPLAY_TOKENS)) await middle.forward(states, signal)
    return middle
  } catch (error) {
    await middle.close()
    throw error
  }
}

/** What leaves for some tokens, and the rows [rows, hidden] as they were where the residual stream stays here. */
interface Sent {
  readonly states: CachedHiddenStates
  readonly rows: Tensor | undefined
}

/** Joins two releases, of which the second has rows as they were where the first has. */
function joinedReleases (first: Release, then: Release): Release {
  return {
    tensors: joinedRows(first.tensors, then.tensors),
    clippedFraction: 0,
    ...(first.rows === undefined ? {} : { rows: joinTensorRows([first.rows, then.rows!]) })
  }
}

/** The results of both, once neither is still at work; throws as the first that failed. */
async function both<A, B> (a: Promise<A>, b: Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([a, b])
  return await Promise.all([a, b])
}
