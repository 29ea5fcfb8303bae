import type { Encoding } from '../../../encoding.ts'
import { chunksOf } from '../../../model/generation/cache-size.ts'
import { CachedClientModel, type NextToken } from '../../../model/generation/cached-client-model.ts'
import { createSampler, type SamplingOptions } from '../../../model/generation/sampling.ts'
import type { ModelWeights } from '../../../model/layers/weights.ts'
import type { Boundary, Protection } from '../../../model/privacy/boundary.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import { fromClient, type GenerateClientChannel } from '../../../protocols/generate/messages.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../../protocols/wire/hidden-states.ts'
import type { Tensor } from '../../../tensor.ts'
import { contextFields } from '../fields.ts'

export interface GeneratorComponents {
  readonly weights: ModelWeights
  readonly boundary: Boundary
  readonly protection: Protection
  readonly wire: Encoding
  readonly hiddenSize: number
  readonly blocks: number
  readonly partition: { readonly inputBlocks: number, readonly outputBlocks: number }
}

/** One sequence that grows: this client's ends, and the middle over a generation stream. */
export class Sequence {
  readonly #c: GeneratorComponents
  readonly #channel: GenerateClientChannel
  readonly #ends: CachedClientModel
  /** A token that was started before it was chosen: its rows, as they may leave. */
  #guessed: Omit<NextToken, 'logits'> | undefined

  private constructor (components: GeneratorComponents, channel: GenerateClientChannel, ends: CachedClientModel) {
    this.#c = components
    this.#channel = channel
    this.#ends = ends
  }

  /** Takes room for `capacity` tokens here and on the server. */
  static async open (
    components: GeneratorComponents,
    channel: GenerateClientChannel,
    capacity: number,
    signal: AbortSignal
  ): Promise<Sequence> {
    const { weights, partition, blocks } = components
    await channel.send(
      fromClient({ case: 'begin', value: { first: partition.inputBlocks, end: blocks - partition.outputBlocks, capacity } }),
      [],
      signal
    )
    const { message: { kind } } = await channel.receive(signal)
    if (kind.case !== 'ready') throw new BadMessageError('the server did not make room for the sequence')
    return new Sequence(components, channel, await CachedClientModel.create(weights, partition, capacity))
  }

  /**
   * The logits [vocabulary] after these next tokens: one row a token up, one down. `guess` says that the likeliest token will probably
   * be next: it is taken through this side's first blocks in the same message to the device, so that its rows are there when it is.
   */
  async next (ids: readonly number[], { guess }: { readonly guess: boolean }, signal: AbortSignal): Promise<Float32Array> {
    const chunks = chunksOf(this.#c.weights.model, ids)
    for (const chunk of chunks.slice(0, -1)) await this.#pass(chunk, { guess: false }, signal)
    return await this.#pass(chunks.at(-1)!, { guess }, signal)
  }

  async #pass (ids: readonly number[], { guess }: { readonly guess: boolean }, signal: AbortSignal): Promise<Float32Array> {
    const { boundary, protection, wire, hiddenSize } = this.#c
    const position = this.#ends.length
    const tensors = await this.#released(ids)
    await this.#channel.send(
      fromClient({ case: 'rows', value: { position, count: ids.length, ...contextFields(this.#ends.contextAt(position)) } }),
      tensors,
      signal
    )
    using scope = new Scope(this.#c.weights.device)
    // The next row's noise is drawn while the server computes.
    const drawing = guess ? boundary.drawNoise(scope, protection, 1) : Promise.resolve({})
    const [{ message: { kind }, tensors: back }, draw] = await both(this.#channel.receive(signal), drawing)
    if (kind.case !== 'hidden' || kind.value.position !== position)
      throw new BadMessageError('the server answered something else than it was asked')
    checkHiddenStates(back, { wire, hidden: hiddenSize, rows: ids.length })
    const rows = await boundary.decoding(back)
    if (!guess) return await this.#ends.logits(rows, ids.length)
    const { logits, ...guessed } = await this.#ends.logitsAndNext(
      rows,
      ids.length,
      async (next) => await boundary.protecting(next, protection, draw, 1)
    )
    this.#guessed = guessed
    return logits
  }

  /** Rows of the next tokens as they may leave. */
  async #released (ids: readonly number[]): Promise<readonly Tensor[]> {
    const guessed = this.#guessed
    this.#guessed = undefined
    if (guessed !== undefined) {
      if (ids.length === 1 && ids[0] === guessed.id) return guessed.release.tensors
      this.#ends.rewind(this.#ends.length)
    }
    const { boundary, protection } = this.#c
    return (await boundary.protect(await this.#ends.embed(ids), protection, ids.length)).tensors
  }

  /** Frees the caches here; those on the server go with the stream. */
  free (): void {
    this.#ends.free()
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
}

export interface GeneratedToken {
  readonly id: number
  /** Whether it is one that ends the text. */
  readonly stop: boolean
}

/** Prefills the prompt, then yields one token after another until one stops the text or there are as many as wanted. */
export async function* generateTokens (
  sequence: Sequence,
  prompt: readonly number[],
  sampling: SamplingOptions,
  { maxTokens, stopIds }: Limits,
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
      const id = sample(await logits, step)
      const stop = stopIds.includes(id)
      const goesOn = !stop && step < maxTokens - 1
      // The next token is on its way while the caller does something with this one.
      if (goesOn) (logits = next([id], step + 1)).catch(() => {})
      yield { id, stop }
      if (!goesOn) return
    }
  } finally {
    left.abort()
    await logits.catch(() => {})
  }
}
