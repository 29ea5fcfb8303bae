import type { Tensor } from '../../tensor.ts'
import { embeddingWeight } from '../families/index.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, DeviceTensor, Executable, ProgramCall, OutputRef } from '../runtime/device.ts'
import { embeddingGradientProgram, embeddingProgram, likeliestProgram } from './head-programs.ts'
import { checkTokens } from './vocabulary-check.ts'
import { endFormat } from './weight-format.ts'
import type { ModelWeights } from './weights.ts'

/** Computes the embedding of token ids, and its gradient where it is trained. */
export class Embedding {
  readonly #weights: ModelWeights
  readonly #forward: Executable
  readonly #backward: Executable | undefined

  constructor (weights: ModelWeights, forward: Executable, backward: Executable | undefined) {
    this.#weights = weights
    this.#forward = forward
    this.#backward = backward
  }

  /** Compiles the programs. The embedding must be among the weights by the time that they run. */
  static async open (weights: ModelWeights): Promise<Embedding> {
    const { device, model, trainable, key } = weights
    const forward = await compiled(device, `embedding ${key}`, () => embeddingProgram(model, endFormat(weights.format)))
    const backward = trainable === 'weights'
      ? await compiled(device, `embedding.gradient ${key}`, () => embeddingGradientProgram(model))
      : undefined
    return new Embedding(weights, forward, backward)
  }

  get isTrained (): boolean { return this.#backward !== undefined }

  /** Computes hidden states [rows, hidden] of ids int32 [rows]. The caller frees them. Throws VocabularyError. */
  async forward (ids: Tensor): Promise<DeviceTensor> {
    const { hidden } = await this.#forward.run(this.#inputs(ids), { keep: 'all' })
    return hidden as DeviceTensor
  }

  /** Prepares the embedding as a call in a sequence. The call's output is `hidden`. Throws VocabularyError. */
  call (ids: Tensor): ProgramCall {
    return { executable: this.#forward, inputs: this.#inputs(ids) }
  }

  /** Prepares the embedding of the likeliest tokens by `logits` [rows, vocabulary]. Outputs are `hidden` and `ids` int32 [rows]. */
  async likeliestCall (logits: OutputRef): Promise<ProgramCall> {
    const { device, model, key, format } = this.#weights
    const executable = await compiled(device, `embedding.likeliest ${key}`, () => likeliestProgram(model, endFormat(format)))
    return { executable, inputs: { logits, ...this.#table() } }
  }

  /** Computes the embedding's gradient, by its name, from that of its hidden states [rows, hidden]; nothing where it is frozen. */
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
