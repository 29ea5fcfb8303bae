import { CachedEnds } from '../../model/generation/cached-ends.ts'
import { createSampler, type SamplingOptions } from '../../model/generation/sampling.ts'
import type { Boundary, Protection } from '../../model/privacy/boundary.ts'
import type { ModelWeights } from '../../model/training/weights.ts'
import { fromClient, type GenerateClientChannel } from '../../protocols/generate/messages.ts'
import { BadMessageError } from '../../protocols/wire/errors.ts'
import { checkRows, type WireType } from '../../protocols/wire/rows.ts'
import { contextFields } from './fields.ts'

export interface GeneratorComponents {
  readonly weights: ModelWeights
  readonly boundary: Boundary
  readonly protection: Protection
  readonly wire: WireType
  readonly hiddenSize: number
  readonly blocks: number
  readonly partition: { readonly inputBlocks: number, readonly outputBlocks: number }
}

/** One sequence that grows: this client's ends, and the middle over a generation stream. */
export class Sequence {
  readonly #c: GeneratorComponents
  readonly #channel: GenerateClientChannel
  readonly #ends: CachedEnds

  private constructor (components: GeneratorComponents, channel: GenerateClientChannel, ends: CachedEnds) {
    this.#c = components
    this.#channel = channel
    this.#ends = ends
  }

  /** Takes room for `capacity` tokens here and on the server. */
  static async open (components: GeneratorComponents, channel: GenerateClientChannel, capacity: number, signal: AbortSignal): Promise<Sequence> {
    const { weights, partition, blocks } = components
    await channel.send(fromClient({ case: 'begin', value: { first: partition.inputBlocks, end: blocks - partition.outputBlocks, capacity } }), [], signal)
    const { message: { kind } } = await channel.receive(signal)
    if (kind.case !== 'ready') throw new BadMessageError('the server did not make room for the sequence')
    return new Sequence(components, channel, await CachedEnds.create(weights, partition, capacity))
  }

  /** The logits [vocabulary] after these next tokens: one row a token up, one down. */
  async next (ids: readonly number[], signal: AbortSignal): Promise<Float32Array> {
    const { boundary, protection, wire, hiddenSize } = this.#c
    const position = this.#ends.length
    const { tensors } = await boundary.release(await this.#ends.starting(ids), protection, ids.length)
    await this.#channel.send(fromClient({ case: 'rows', value: { position, count: ids.length, ...contextFields(this.#ends.contextAt(position)) } }), tensors, signal)
    const { message: { kind }, tensors: back } = await this.#channel.receive(signal)
    if (kind.case !== 'hidden' || kind.value.position !== position) throw new BadMessageError('the server answered something else than it was asked')
    checkRows(back, { wire, hidden: hiddenSize, rows: ids.length })
    return await this.#ends.finish(await boundary.decoded(back), ids.length)
  }

  /** Frees the caches here; those on the server go with the stream. */
  free (): void {
    this.#ends.free()
  }
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
export async function * generateTokens (sequence: Sequence, prompt: readonly number[], sampling: SamplingOptions, { maxTokens, stopIds }: Limits, signal: AbortSignal): AsyncGenerator<GeneratedToken> {
  const sample = createSampler(sampling)
  let logits = await sequence.next(prompt, signal)
  for (let step = 0; step < maxTokens; step++) {
    const id = sample(logits, step)
    const stop = stopIds.includes(id)
    yield { id, stop }
    if (stop || step === maxTokens - 1) return
    logits = await sequence.next([id], signal)
  }
}
