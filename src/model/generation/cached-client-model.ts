import { int32, type Tensor } from '../../tensor.ts'
import type { Partition, PromptContext } from '../families/index.ts'
import { Embedding } from '../layers/embedding.ts'
import { Head } from '../layers/head.ts'
import type { ModelWeights } from '../layers/weights.ts'
import type { DeferredRelease, Release } from '../privacy/boundary.ts'
import { continued, isDeferred, type AnyTensor, type ProgramCall, type Deferred, type OutputRef } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { CachedSpan } from './cached-span.ts'
import { SequenceCache } from './kv-cache.ts'

interface Parts {
  readonly embedding: Embedding
  readonly head: Head
  /** The KV cache of the bottom blocks. */
  readonly bottom: SequenceCache
  /** The KV cache of the top blocks. */
  readonly top: SequenceCache
}

/** The logits after some tokens, with the likeliest next token and its protected hidden state. */
export interface NextToken {
  /** [vocabulary]. */
  readonly logits: Float32Array
  /** The likeliest next token. */
  readonly id: number
  /** The hidden state of that token after the bottom blocks, as it may leave the client. */
  readonly release: Release
}

/** What stands in for the middle while tokens are drafted. */
export interface MiddleGuess {
  /** Prepares `predicted` [1, hidden], in place of what leaves the middle, from what enters it and what left it at the position before. */
  readonly predictCall: (entering: OutputRef, before: AnyTensor) => Promise<ProgramCall>
  /** Chooses the token after `drafted` others by its logits. */
  readonly choose: (logits: Float32Array, drafted: number) => number
}

/**
 * Runs the bottom and the top of a model for one sequence that grows: the embedding with the first blocks, and the last blocks with the
 * head. The hidden states between them are the caller's to take through the middle.
 */
export class CachedClientModel {
  readonly #weights: ModelWeights
  readonly #blocks: CachedSpan
  readonly #parts: Parts
  /** The contexts of the prompt and of the tokens that are generated after it, in a model that reads prompts in both directions. */
  #contexts: { readonly read: PromptContext, readonly generated: PromptContext } | undefined

  private constructor (weights: ModelWeights, parts: Parts) {
    this.#weights = weights
    this.#blocks = new CachedSpan(weights)
    this.#parts = parts
  }

  /**
   * Makes KV caches for a sequence of up to `capacity` tokens. The caller frees the model with `free`, and keeps the weights, which hold
   * the blocks of the bottom and the top.
   */
  static async create (weights: ModelWeights, { inputBlocks, outputBlocks }: Partition, capacity: number): Promise<CachedClientModel> {
    const { device, model } = weights
    const [embedding, head] = [await Embedding.open(weights), await Head.open(weights)]
    const bottom = await SequenceCache.create(device, model, { first: 0, end: inputBlocks }, capacity)
    try {
      const top = await SequenceCache.create(device, model, { first: model.layers - outputBlocks, end: model.layers }, capacity)
      return new CachedClientModel(weights, { embedding, head, bottom, top })
    } catch (error) {
      bottom.free()
      throw error
    }
  }

  /** The number of tokens that have come back from the middle. */
  get length (): number { return this.#parts.top.length }

  /**
   * Embeds the next tokens and runs the bottom blocks on them. Returns the calls that compute the hidden states [ids, hidden]; the tokens
   * count as part of the sequence from now on, so the caller runs the calls before it asks for others. The first call has the whole prompt
   * where the model reads prompts in both directions. Throws PromptError.
   */
  async embed (ids: readonly number[]): Promise<Deferred> {
    const { embedding, bottom } = this.#parts
    const { prompts } = this.#weights.model
    if (prompts !== undefined && bottom.length === 0)
      this.#contexts = { read: prompts.context(ids, 'read'), generated: prompts.context(ids, 'generated') }
    return await this.#bottom([embedding.call(int32([ids.length], ids))], ids.length)
  }

  /**
   * Drafts `count` tokens after the token `id`, which is the next one, with a guess in place of the middle. `before` [1, hidden] is what
   * left the middle at the last position. The sequence is afterwards what it was.
   */
  async draft (id: number, before: Tensor, count: number, { predictCall, choose }: MiddleGuess): Promise<number[]> {
    const { bottom, top, embedding } = this.#parts
    const [bottomLength, topLength] = [bottom.length, top.length]
    const drafted: number[] = []
    let [next, last]: [number, AnyTensor] = [id, before]
    bottom.length = topLength
    try {
      // Room is made once: a cache of a window that made room in between would have forgotten what the tokens from here on attend to.
      for (const cache of [bottom, top]) await cache.reserve(topLength + count)
      while (drafted.length < count) {
        const { calls, output } = await this.#bottom([embedding.call(int32([1], [next]))], 1)
        const predicted = { calls: [...calls, await predictCall({ output }, last)], output: 'predicted' }
        const results = await this.#weights.device.runSequence(await this.#top(predicted, 1), { also: ['predicted'] })
        last = results.predicted!
        drafted.push(next = choose((results.logits as Tensor).data as Float32Array, drafted.length))
      }
      return drafted
    } finally {
      bottom.length = bottomLength
      top.length = topLength
    }
  }

  /** Forgets every position from this one on. */
  rewind (position: number): void {
    for (const cache of [this.#parts.bottom, this.#parts.top]) cache.length = Math.min(cache.length, position)
  }

  /** Runs the bottom blocks on the embeddings `hidden` [count, hidden] that these calls compute. */
  async #bottom (calls: readonly ProgramCall[], count: number): Promise<Deferred> {
    const { bottom } = this.#parts
    const blocks = await this.#blocks.forwardCalls(
      { output: 'hidden' },
      [{ cache: bottom, count, context: this.contextAt(bottom.length) }],
      bottom.span
    )
    bottom.length += count
    return { calls: [...calls, ...blocks], output: blocks.length === 0 ? 'hidden' : 'output' }
  }

  /**
   * Returns the context of the tokens from `position` on, in a model that reads prompts in both directions, once the prompt is embedded.
   * Returns undefined for other models.
   */
  contextAt (position: number): PromptContext | undefined {
    return position === 0 ? this.#contexts?.read : this.#contexts?.generated
  }

  /**
   * Runs the top blocks and the head on `count` hidden states [count, hidden] that came back from the middle, and frees them. Returns the
   * logits [vocabulary] after the last token.
   */
  async logits (hidden: AnyTensor | Deferred, count: number): Promise<Float32Array> {
    return (await this.logitsOfLast(1, hidden, count))[0]!
  }

  /** Computes `logits` after each of the last `taken` tokens: an array [vocabulary] each. */
  async logitsOfLast (taken: number, hidden: AnyTensor | Deferred, count: number): Promise<Float32Array[]> {
    using scope = new Scope(this.#weights.device)
    if (!isDeferred(hidden)) scope.own(hidden)
    const { logits } = await this.#weights.device.runSequence(await this.#top(hidden, count, taken))
    const { data, shape: [, vocabulary] } = logits as Tensor
    return Array.from({ length: taken }, (_, i) => (data as Float32Array).subarray(i * vocabulary!, (i + 1) * vocabulary!))
  }

  /**
   * Computes `logits`, and embeds the likeliest next token in the same message to the device, before the caller has seen the logits.
   * `release` appends the calls that protect the token's hidden state [1, hidden]. A caller that chooses another token first rewinds to the
   * position of this one.
   */
  async logitsAndNext (
    hidden: AnyTensor | Deferred,
    count: number,
    release: (next: Deferred) => Promise<DeferredRelease>
  ): Promise<NextToken> {
    using scope = new Scope(this.#weights.device)
    if (!isDeferred(hidden)) scope.own(hidden)
    const likeliest = await this.#parts.embedding.likeliestCall({ output: 'logits' })
    const { calls, also, released } = await release(await this.#bottom([...await this.#top(hidden, count), likeliest], 1))
    const results = await this.#weights.device.runSequence(calls, { also: ['logits', 'ids', ...also] })
    const { logits, ids } = results as Record<string, Tensor>
    return { logits: logits!.data as Float32Array, id: ids!.data[0] as number, release: released(results) }
  }

  /**
   * Returns the calls that compute `logits` [taken, vocabulary], after each of the last `taken` tokens, from hidden states [count, hidden].
   * The caller runs them before others.
   */
  async #top (hidden: AnyTensor | Deferred, count: number, taken = 1): Promise<ProgramCall[]> {
    const { head, top } = this.#parts
    const { calls, input } = continued(hidden)
    const blocks = await this.#blocks.forwardCalls(input, [{ cache: top, count, context: this.contextAt(top.length) }], top.span)
    const rows = Array.from({ length: taken }, (_, i) => count - taken + i)
    const last = await head.generationCall(blocks.length === 0 ? input : { output: 'output' }, count, rows)
    top.length += count
    return [...calls, ...blocks, last]
  }

  /** Frees both KV caches. */
  free (): void {
    this.#parts.bottom.free()
    this.#parts.top.free()
  }
}
