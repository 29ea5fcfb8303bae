import type { Model } from '../families/index.ts'
import type { Trainable } from '../layers/trainable.ts'
import type { WeightFormat } from '../layers/weight-format.ts'
import { ModelWeights, type WeightSource } from '../layers/weights.ts'
import type { Device } from '../runtime/device.ts'
import { inRuns } from './cache-size.ts'
import { CachedClientModel } from './cached-client-model.ts'
import type { Sampler } from './sampling.ts'

export interface GenerateOptions {
  /** New tokens at most. */
  readonly maxTokens: number
  /** Tokens that end the text; the one met is not given. */
  readonly stopIds?: readonly number[]
}

/** A whole model that generates on one machine: what a split one must equal. */
export class LocalGenerator {
  readonly weights: ModelWeights

  constructor (weights: ModelWeights) {
    this.weights = weights
  }

  /** `'weights'` generates with the model as it is, in float32; `format` is that of weights frozen beside adapters. */
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

  /** Continues a prompt of at least one token, token by token, until a stop token or as many as asked for or as the model has positions. */
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
    const ends = await CachedClientModel.create(this.weights, { inputBlocks: 0, outputBlocks: model.layers }, prompt.length + steps)
    try {
      const runs = inRuns(model, prompt)
      for (const run of runs.slice(0, -1)) await ends.finish(await ends.starting(run), run.length)
      let fresh = runs.at(-1)!
      for (let step = 0; step < steps; step++) {
        signal?.throwIfAborted()
        const id = sampler(await ends.finish(await ends.starting(fresh), fresh.length), step)
        if (stopIds.includes(id)) return
        yield id
        fresh = [id]
      }
    } finally {
      ends.free()
    }
  }

  free (): void {
    this.weights.free()
  }
}
