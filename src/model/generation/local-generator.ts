import type { Model } from '../families/index.ts'
import type { Trainable } from '../layers/trainable.ts'
import type { WeightFormat } from '../layers/weight-format.ts'
import { ModelWeights, type WeightSource } from '../layers/weights.ts'
import type { Device } from '../runtime/device.ts'
import { chunksOf } from './cache-size.ts'
import { CachedClientModel } from './cached-client-model.ts'
import type { Sampler } from './sampling.ts'

export interface GenerateOptions {
  /** The greatest number of new tokens. */
  readonly maxTokens: number
  /** Tokens that end the text and are not yielded. */
  readonly stopIds?: readonly number[]
}

/** Generates with a whole model on one machine. A federation must give the same tokens. */
export class LocalGenerator {
  readonly weights: ModelWeights

  constructor (weights: ModelWeights) {
    this.weights = weights
  }

  /**
   * Loads a model. `'weights'` as trainable generates with the weights of the checkpoint in float32; otherwise `format` is the format of
   * the frozen weights beside the adapters. The caller frees the generator.
   */
  static async load (
    device: Device,
    model: Model,
    source: WeightSource,
    trainable: Trainable = 'weights',
    format?: WeightFormat
  ): Promise<LocalGenerator> {
    const weights = new ModelWeights(device, model, trainable, format)
    return await weights.orFreed(async () => {
      await weights.loadEmbedding(source)
      await weights.loadBlocks(source, { first: 0, end: model.layers })
      await weights.loadHead(source)
      return new LocalGenerator(weights)
    })
  }

  /**
   * Continues a prompt of at least one token, and yields token after token until a stop token, `maxTokens` tokens or the last position of
   * the model. Throws RangeError for a prompt of another length.
   */
  async *generate (
    prompt: readonly number[],
    sampler: Sampler,
    { maxTokens, stopIds = [] }: GenerateOptions,
    signal?: AbortSignal
  ): AsyncGenerator<number> {
    const { model } = this.weights
    if (prompt.length === 0 || prompt.length > model.maxPositions)
      throw new RangeError(`a prompt has 1 to ${model.maxPositions} tokens, not ${prompt.length}`)
    const steps = Math.min(maxTokens, model.maxPositions - prompt.length + 1)
    const client = await CachedClientModel.create(this.weights, { inputBlocks: 0, outputBlocks: model.layers }, prompt.length + steps)
    try {
      const chunks = chunksOf(model, prompt)
      for (const chunk of chunks.slice(0, -1)) await client.logits(await client.embed(chunk), chunk.length)
      let fresh = chunks.at(-1)!
      for (let step = 0; step < steps; step++) {
        signal?.throwIfAborted()
        const id = sampler(await client.logits(await client.embed(fresh), fresh.length), step)
        if (stopIds.includes(id)) return
        yield id
        fresh = [id]
      }
    } finally {
      client.free()
    }
  }

  /** Frees the weights. */
  free (): void {
    this.weights.free()
  }
}
