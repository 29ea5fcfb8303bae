import type { Tensor } from '../../tensor.ts'
import { embeddingWeight } from '../families/index.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, DeviceTensor, Executable, ProgramCall, OutputRef } from '../runtime/device.ts'
import { embeddingGradientProgram, embeddingProgram, likeliestProgram } from './head-programs.ts'
import { checkTokens } from './vocabulary-check.ts'
import { endFormat } from './weight-format.ts'
import type { ModelWeights } from './weights.ts'

/** Token ids to hidden states, and back where the embedding is trained. */
export class Embedding {
  readonly #weights: ModelWeights
  readonly #forward: Executable
  readonly #backward: Executable | undefined

  constructor (weights: ModelWeights, forward: Executable, backward: Executable | undefined) {
    this.#weights = weights
    this.#forward = forward
    this.#backward = backward
  }

  /** The embedding must be among the weights by the time it is used. */
  static async open (weights: ModelWeights): Promise<Embedding> {
    const { device, model, trainable, key } = weights
    const forward = await compiled(device, `embedding ${key}`, () => embeddingProgram(model, endFormat(weights.format)))
    const backward = trainable === 'weights'
      ? await compiled(device, `embedding.gradient ${key}`, () => embeddingGradientProgram(model))
      : undefined
    return new Embedding(weights, forward, backward)
  }

  get isTrained (): boolean { return this.#backward !== undefined }

  /** ids int32 [rows] → [rows, hidden], the caller's. Throws VocabularyError. */
  async forward (ids: Tensor): Promise<DeviceTensor> {
    const { hidden } = await this.#forward.run(this.#inputs(ids), { keep: 'all' })
    return hidden as DeviceTensor
  }

  /** The same as a call of a chain; gives `hidden`. */
  call (ids: Tensor): ProgramCall {
    return { executable: this.#forward, inputs: this.#inputs(ids) }
  }

  /** Of the likeliest tokens after `logits` [rows, vocabulary]; gives their `ids` int32 [rows] besides. */
  async likeliestCall (logits: OutputRef): Promise<ProgramCall> {
    const { device, model, key, format } = this.#weights
    const executable = await compiled(device, `embedding.likeliest ${key}`, () => likeliestProgram(model, endFormat(format)))
    return { executable, inputs: { logits, ...this.#table() } }
  }

  /** The gradient of [rows, hidden] to that of the embedding, by name; none where it is frozen. */
  async backward (ids: Tensor, hiddenGradient: AnyTensor): Promise<Map<string, DeviceTensor>> {
    if (this.#backward === undefined) return new Map()
    const { embedding } = this.#weights.model
    const results = await this.#backward.run({ ids, hiddenGradient, ...this.#table() }, { keep: 'all' })
    return new Map([[embedding, results[`${embedding}.gradient`] as DeviceTensor]])
  }

  #inputs (ids: Tensor): Record<string, AnyTensor> {
    checkTokens(this.#weights.model, ids.data as Int32Array)
    return { ids, ...this.#table() }
  }

  #table (): Record<string, DeviceTensor> {
    return this.#weights.endInputs([embeddingWeight(this.#weights.model)])
  }
}
