import { int32, type Tensor } from '../../tensor.ts'
import type { Partition, PromptContext } from '../families/index.ts'
import { Embedding } from '../layers/embedding.ts'
import { Head } from '../layers/head.ts'
import type { ModelWeights } from '../layers/weights.ts'
import type { DeferredRelease, Release } from '../privacy/boundary.ts'
import { continued, isDeferred, type AnyTensor, type DeviceTensor, type ProgramCall, type Deferred } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { CachedSpan } from './cached-span.ts'
import { SequenceCache } from './kv-cache.ts'

interface Parts {
  readonly embedding: Embedding
  readonly head: Head
  readonly input: SequenceCache
  readonly output: SequenceCache
}

/** The logits [vocabulary] after some tokens, and the likeliest token after them, of which the rows are released. */
export interface Guess {
  readonly logits: Float32Array
  readonly id: number
  readonly release: Release
}

/** Both ends of a model for one sequence that grows: the embedding with the first blocks, the last blocks with the head. */
export class CachedClientModel {
  readonly #weights: ModelWeights
  readonly #blocks: CachedSpan
  readonly #parts: Parts
  /** Of the prompt, and of what is generated after it. */
  #contexts: { readonly read: PromptContext, readonly generated: PromptContext } | undefined

  private constructor (weights: ModelWeights, parts: Parts) {
    this.#weights = weights
    this.#blocks = new CachedSpan(weights)
    this.#parts = parts
  }

  /** Room for a sequence of `capacity` tokens. The weights, which hold the ends, stay the caller's. */
  static async create (weights: ModelWeights, { inputBlocks, outputBlocks }: Partition, capacity: number): Promise<CachedClientModel> {
    const { device, model } = weights
    const [embedding, head] = [await Embedding.open(weights), await Head.open(weights)]
    const input = await SequenceCache.create(device, model, { first: 0, end: inputBlocks }, capacity)
    try {
      const output = await SequenceCache.create(device, model, { first: model.layers - outputBlocks, end: model.layers }, capacity)
      return new CachedClientModel(weights, { embedding, head, input, output })
    } catch (error) {
      input.free()
      throw error
    }
  }

  /** Tokens held. */
  get length (): number { return this.#parts.output.length }

  /** The hidden rows [ids, hidden] of the next tokens. They are the caller's. */
  async start (ids: readonly number[]): Promise<DeviceTensor> {
    const { calls, output } = await this.starting(ids)
    return (await this.#weights.device.runSequence(calls, { keep: 'all' }))[output] as DeviceTensor
  }

  /**
   * The same rows for a chain to go on with. The tokens are taken to be held as soon as it has run. The first come with the whole prompt.
   * Throws PromptError.
   */
  async starting (ids: readonly number[]): Promise<Deferred> {
    const { embedding, input } = this.#parts
    const { prompts } = this.#weights.model
    if (prompts !== undefined && input.length === 0)
      this.#contexts = { read: prompts.context(ids, 'read'), generated: prompts.context(ids, 'generated') }
    return await this.#onward([embedding.call(int32([ids.length], ids))], ids.length)
  }

  /** The token started last was a wrong guess. */
  takeBack (): void {
    this.#parts.input.length--
  }

  /** Rows `hidden` that these calls give, through the first blocks. */
  async #onward (calls: readonly ProgramCall[], count: number): Promise<Deferred> {
    const { input } = this.#parts
    const blocks = await this.#blocks.calls(
      { output: 'hidden' },
      [{ cache: input, count, context: this.contextAt(input.length) }],
      input.span
    )
    input.length += count
    return { calls: [...calls, ...blocks], output: blocks.length === 0 ? 'hidden' : 'output' }
  }

  /**
   * What the blocks must know of rows from this position on, in a model that reads prompts in both directions; known once the prompt has
   * started.
   */
  contextAt (position: number): PromptContext | undefined {
    return position === 0 ? this.#contexts?.read : this.#contexts?.generated
  }

  /**
   * The logits [vocabulary] after the last of the same tokens, once these many rows have come through the middle, in exchange for the rows.
   */
  async finish (rows: AnyTensor | Deferred, count: number): Promise<Float32Array> {
    using scope = new Scope(this.#weights.device)
    if (!isDeferred(rows)) scope.own(rows)
    const { logits } = await this.#weights.device.runSequence(await this.#finishing(rows, count))
    return (logits as Tensor).data as Float32Array
  }

  /**
   * The same in one message with the start of the likeliest next token, before anybody has seen the logits; `leave` ends the chain with its
   * rows on their way out. `takeBack` where another token is chosen.
   */
  async finishAndGuess (rows: AnyTensor | Deferred, count: number, leave: (rows: Deferred) => Promise<DeferredRelease>): Promise<Guess> {
    using scope = new Scope(this.#weights.device)
    if (!isDeferred(rows)) scope.own(rows)
    const likeliest = await this.#parts.embedding.likeliestCall({ output: 'logits' })
    const { calls, released } = await leave(await this.#onward([...await this.#finishing(rows, count), likeliest], 1))
    const results = await this.#weights.device.runSequence(calls, { also: ['logits', 'ids'] })
    const { logits, ids } = results as Record<string, Tensor>
    return { logits: logits!.data as Float32Array, id: ids!.data[0] as number, release: released(results) }
  }

  /** Links that give `logits` [1, vocabulary]. The tokens are taken to be held as soon as they have run. */
  async #finishing (rows: AnyTensor | Deferred, count: number): Promise<ProgramCall[]> {
    const { head, output } = this.#parts
    const { calls, input } = continued(rows)
    const blocks = await this.#blocks.calls(input, [{ cache: output, count, context: this.contextAt(output.length) }], output.span)
    const last = await head.generationCall(blocks.length === 0 ? input : { output: 'output' }, count, [count - 1])
    output.length += count
    return [...calls, ...blocks, last]
  }

  free (): void {
    this.#parts.input.free()
    this.#parts.output.free()
  }
}
