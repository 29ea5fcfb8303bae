import { chunksOf } from '../../../model/generation/cache-size.ts'
import { CachedClientModel, type NextToken } from '../../../model/generation/cached-client-model.ts'
import { logProbabilities, type LogProbabilities } from '../../../model/generation/log-probabilities.ts'
import { createSampler, type SamplingOptions } from '../../../model/generation/sampling.ts'
import type { ModelWeights } from '../../../model/layers/weights.ts'
import type { Boundary, Protection, Release } from '../../../model/privacy/boundary.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import type { Partition } from '../../../protocols/charter/schema.ts'
import type { Stage, StageCache } from '../../middle/stage.ts'

/** A client's end of the model and its boundary. */
export interface SequenceComponents {
  readonly weights: ModelWeights
  readonly boundary: Boundary
  /** What takes released hidden states through the middle. */
  readonly route: Pick<Stage, 'span' | 'openCache'>
}

export interface SequenceSettings {
  readonly protection: Protection
  /** Whether the residual stream stays here, as in training. */
  readonly keepsStream: boolean
  readonly partition: Partition
  /** Tokens that the sequence can have. */
  readonly capacity: number
}

/** One sequence that grows: this client's blocks at either end, and the middle over a route. */
export class Sequence {
  readonly #weights: ModelWeights
  readonly #boundary: Boundary
  readonly #protection: Protection
  readonly #keepsStream: boolean
  readonly #ends: CachedClientModel
  readonly #middle: StageCache
  /** A token that was started before it was chosen, with its released hidden states. */
  #guessed: Omit<NextToken, 'logits'> | undefined

  private constructor (
    { weights, boundary }: SequenceComponents,
    { protection, keepsStream }: SequenceSettings,
    ends: CachedClientModel,
    middle: StageCache
  ) {
    this.#weights = weights
    this.#boundary = boundary
    this.#protection = protection
    this.#keepsStream = keepsStream
    this.#ends = ends
    this.#middle = middle
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
      return new Sequence(components, settings, await CachedClientModel.create(weights, partition, capacity), middle)
    } catch (error) {
      await middle.close()
      throw error
    }
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

  async #pass (ids: readonly number[], { guess }: { readonly guess: boolean }, signal: AbortSignal): Promise<Float32Array> {
    const boundary = this.#boundary
    const position = this.#ends.length
    const { tensors, rows } = await this.#released(ids)
    using scope = new Scope(this.#weights.device)
    const answering = this.#middle.forward({ tensors, context: this.#ends.contextAt(position) }, signal)
    // The noise of the next token is drawn while the middle computes.
    const drawing = guess ? boundary.drawNoise(scope, this.#protection, 1) : Promise.resolve({})
    const [back, draw] = await both(answering, drawing)
    const decoded = await boundary.decoding(back)
    const states = rows === undefined ? decoded : await boundary.keepStream(rows, tensors, decoded)
    if (!guess) return await this.#ends.logits(states, ids.length)
    const { logits, ...guessed } = await this.#ends.logitsAndNext(
      states,
      ids.length,
      async (next) => await boundary.protecting(next, this.#protection, draw, { count: 1, keepRows: this.#keepsStream })
    )
    this.#guessed = guessed
    return logits
  }

  /** Returns the released hidden states of the next tokens, with those that stay here. */
  async #released (ids: readonly number[]): Promise<Release> {
    const guessed = this.#guessed
    this.#guessed = undefined
    if (guessed !== undefined) {
      if (ids.length === 1 && ids[0] === guessed.id) return guessed.release
      this.#ends.rewind(this.#ends.length)
    }
    const options = { count: ids.length, keepRows: this.#keepsStream }
    return await this.#boundary.protect(await this.#ends.embed(ids), this.#protection, options)
  }

  /** Frees the caches here and on the route. */
  async close (): Promise<void> {
    this.#ends.free()
    await this.#middle.close()
  }
}

/** The results of both, once neither is still at work; throws as the first that failed. */
async function both<A, B> (a: Promise<A>, b: Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([a, b])
  return await Promise.all([a, b])
}

/** What a generation goes on until. */
export interface Limits {
  readonly maxTokens: number
  readonly stopIds: readonly number[]
  /** How many of the likeliest tokens are told with each token; unless given, no probabilities are told. */
  readonly logProbabilities?: number | undefined
}

export interface GeneratedToken {
  readonly id: number
  /** Whether it is one that ends the text. */
  readonly stop: boolean
  /** Where they were asked for. */
  readonly logProbabilities?: LogProbabilities
}

/** Prefills the prompt, then yields one token after another until one stops the text or there are as many as wanted. */
export async function* generateTokens (
  sequence: Sequence,
  prompt: readonly number[],
  sampling: SamplingOptions,
  { maxTokens, stopIds, logProbabilities: told }: Limits,
  signal: AbortSignal
): AsyncGenerator<GeneratedToken> {
  const sample = createSampler(sampling)
  const left = new AbortController()
  const until = AbortSignal.any([signal, left.signal])
  /** Of those that go on, the last is followed by nothing. */
  const next = (ids: readonly number[], step: number): Promise<Float32Array> =>
    sequence.next(ids, { guess: sampling.temperature === 0 && step < maxTokens - 1 }, until)
  let logits = next(prompt, 0)
  try {
    for (let step = 0; step < maxTokens; step++) {
      const current = await logits
      const id = sample(current, step)
      const stop = stopIds.includes(id)
      const goesOn = !stop && step < maxTokens - 1
      // The next token is on its way while the caller does something with this one.
      if (goesOn) (logits = next([id], step + 1)).catch(() => {})
      yield { id, stop, ...(told === undefined ? {} : { logProbabilities: logProbabilities(current, id, told) }) }
      if (!goesOn) return
    }
  } finally {
    left.abort()
    await logits.catch(() => {})
  }
}
