import { UsageError } from '../../../errors.ts'
import { openModelDirectory } from '../../checkpoint/directory.ts'
import { checkWeights, modelOf, type Model } from '../../families/index.ts'
import { chunksOf } from '../../generation/cache-size.ts'
import { CachedClientModel } from '../../generation/cached-client-model.ts'
import { LocalGenerator } from '../../generation/local-generator.ts'
import type { Device } from '../../runtime/device.ts'
import type { Prior, Reading } from './prior.ts'

/** Predicts tokens with a whole language model of the same vocabulary. */
export class ModelPrior implements Prior {
  readonly kind = 'model'
  readonly about: string
  readonly #generator: LocalGenerator

  constructor (generator: LocalGenerator, about: string) {
    this.#generator = generator
    this.about = about
  }

  /** Loads the model of a directory onto a device. The caller frees it. Throws UsageError for a model of another vocabulary. */
  static async load (device: Device, path: string, vocabularySize: number): Promise<ModelPrior> {
    const directory = await openModelDirectory(path)
    const model = modelOf(directory.config)
    if (model.vocabularySize !== vocabularySize)
      throw new UsageError(
        `the prior ${path} has ${model.vocabularySize} tokens, and the model that is audited ${vocabularySize}`,
        'give --prior a model with the same tokenizer, or public text'
      )
    if (model.prompts !== undefined) throw new UsageError(`the prior ${path} reads prompts in both directions`, 'give another with --prior')
    checkWeights(model, directory)
    return new ModelPrior(await LocalGenerator.load(device, model, directory), `the model in ${path}`)
  }

  async * next (sequence: readonly number[]): AsyncGenerator<Float32Array> {
    const seen = sequence.slice(0, -1)
    if (seen.length === 0) return
    const client = await this.#cached(seen.length)
    try {
      yield * readBy(client, this.#generator.weights.model, seen)
    } finally {
      client.free()
    }
  }

  async open (capacity: number): Promise<Reading> {
    const client = await this.#cached(capacity)
    const { model } = this.#generator.weights
    return {
      async read (position, ids) {
        client.rewind(position)
        return ids.length === 0 ? [] : await Array.fromAsync(readBy(client, model, ids))
      },
      free () {
        client.free()
      }
    }
  }

  async #cached (capacity: number): Promise<CachedClientModel> {
    const { weights } = this.#generator
    return await CachedClientModel.create(weights, { inputBlocks: 0, outputBlocks: weights.model.layers }, capacity)
  }

  free (): void {
    this.#generator.free()
  }
}

/** Reads on in a text. Yields the logarithms of the probabilities [vocabulary] of what follows each of these tokens. */
async function * readBy (client: CachedClientModel, model: Model, ids: readonly number[]): AsyncGenerator<Float32Array> {
  for (const chunk of chunksOf(model, ids))
    for (const logits of await client.logitsOfLast(chunk.length, await client.embed(chunk), chunk.length)) yield logSoftmax(logits)
}

/** Computes the logarithms of the softmax of logits. */
export function logSoftmax (logits: Float32Array): Float32Array {
  let peak = -Infinity
  for (const logit of logits) peak = Math.max(peak, logit)
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - peak)
  const total = peak + Math.log(sum)
  return logits.map((logit) => logit - total)
}
