import type { Tensor } from '../../tensor.ts'
import type { Model } from '../families/index.ts'
import { accumulate } from '../layers/gradient-sum.ts'
import type { Loss } from '../layers/head.ts'
import { sequencesOf } from '../layers/hidden-states.ts'
import type { Trainable } from '../layers/trainable.ts'
import type { WeightFormat } from '../layers/weight-format.ts'
import type { ModelWeights, WeightSource } from '../layers/weights.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import type { Batch } from '../text/batches.ts'
import type { ResidualSetting } from './activation-checkpointing.ts'
import { loadClientModel, type ClientModel } from './client-model.ts'
import { clippingCoefficient, Optimizer, type OptimizerSettings } from './optimizer.ts'
import { Parameters } from './parameters.ts'

export interface LocalTrainerOptions {
  /** Adapters on every block, or `'weights'`: everything. */
  readonly trainable: Trainable
  readonly optimizer: OptimizerSettings
  readonly policy?: ResidualSetting
  /** What frozen matrices are kept as; float32 when left out. */
  readonly format?: WeightFormat
}

export interface LocalStepOptions {
  readonly learningRate: number
  /** The gradient's norm, per token, is brought down to this; null leaves it. */
  readonly maxGradientNorm?: number | null
  /** Of dropout's random bits, one for each batch, new for each step. */
  readonly seeds?: readonly string[]
}

export type TrainingBatch = Pick<Batch, 'ids' | 'targets'>

/** A whole model trained on one machine: what a federation of any shape must equal. */
export class LocalTrainer {
  readonly parameters: Parameters
  readonly #device: Device
  readonly #client: ClientModel
  readonly #optimizer: Optimizer

  constructor (device: Device, client: ClientModel, optimizer: Optimizer, parameters: Parameters) {
    this.#device = device
    this.#client = client
    this.#optimizer = optimizer
    this.parameters = parameters
  }

  static async load (
    device: Device,
    model: Model,
    source: WeightSource,
    { trainable, optimizer, ...options }: LocalTrainerOptions
  ): Promise<LocalTrainer> {
    const client = await loadClientModel(device, model, source, { inputBlocks: model.layers, outputBlocks: 0 }, trainable, options)
    const parameters = await Parameters.create(device, client.weights.trained)
    return new LocalTrainer(device, client, await Optimizer.open(device, optimizer), parameters)
  }

  /** Takes one optimiser step on the mean loss over the tokens of all batches, which are run one after another. */
  async step (batches: readonly TrainingBatch[], { learningRate, maxGradientNorm = null, seeds }: LocalStepOptions): Promise<Loss> {
    const sum = new Map<string, DeviceTensor>()
    using scope = new Scope(this.#device)
    let [lossSum, countedTokens] = [0, 0]
    for (const [i, batch] of batches.entries()) {
      const result = await this.#gradients(batch, seeds?.[i])
      await accumulate(this.#device, sum, result.gradients)
      lossSum += result.lossSum
      countedTokens += result.countedTokens
    }
    for (const gradient of sum.values()) scope.own(gradient)
    const scale = 1 / Math.max(1, countedTokens)
    const coefficient = maxGradientNorm === null
      ? 1
      : clippingCoefficient(await this.#optimizer.norm(sum.values()) * scale, maxGradientNorm)
    await this.parameters.step(this.#optimizer, sum, { learningRate, scale: scale * coefficient })
    return { lossSum, countedTokens }
  }

  async evaluate (batch: TrainingBatch): Promise<Loss> {
    const { bottom, top } = this.#client
    using scope = new Scope(this.#device)
    const { hidden } = await bottom.forward(batch.ids, { keepResiduals: false })
    scope.own(hidden)
    return await top.evaluate({ hidden, ...sequencesOf(bottom.span.model, batch.ids) }, batch.targets)
  }

  /** Computes the loss of each sequence of a batch. */
  async losses (batch: TrainingBatch): Promise<Loss[]> {
    const { bottom, top } = this.#client
    using scope = new Scope(this.#device)
    const { hidden } = await bottom.forward(batch.ids, { keepResiduals: false })
    scope.own(hidden)
    return await top.losses({ hidden, ...sequencesOf(bottom.span.model, batch.ids) }, batch.targets)
  }

  /** The whole model's weights, the trained ones as they are now: what a generator needs. The trainer frees them. */
  get weights (): ModelWeights { return this.#client.weights }

  /** Returns what is trained, as it is now, on the host. */
  async values (): Promise<Map<string, Tensor>> {
    return await this.parameters.values()
  }

  free (): void {
    this.parameters.free()
    this.#client.weights.free()
  }

  async #gradients (batch: TrainingBatch, seed: string | undefined): Promise<Loss & { gradients: Map<string, DeviceTensor> }> {
    const { bottom, top } = this.#client
    const options = seed === undefined ? {} : { seed }
    using scope = new Scope(this.#device)
    const { hidden, residuals } = await bottom.forward(batch.ids, { keepResiduals: true, ...options })
    scope.own(hidden)
    try {
      const { gradient, gradients, lossSum, countedTokens } = await top.train(
        { hidden, ...sequencesOf(bottom.span.model, batch.ids) },
        batch.targets,
        options
      )
      scope.own(gradient)
      await accumulate(this.#device, gradients, await bottom.backward(residuals!, gradient))
      return { lossSum, countedTokens, gradients }
    } catch (error) {
      residuals!.free()
      throw error
    }
  }
}
