import type { Model } from '../families/index.ts'
import { sequencesOf, type Sequences } from '../layers/hidden-states.ts'
import type { WeightSource } from '../layers/weights.ts'
import type { SampleRun } from '../privacy/calibration.ts'
import type { Sample } from '../privacy/sample.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'
import { loadClientModel, type ClientModel } from './client-model.ts'
import { TrainableSpan } from './trainable-span.ts'

/** No adapters: they start as zero, and change neither norms nor losses. */
const FROZEN = { r: 1, alpha: 1, dropout: 0, rslora: false, targets: [], seed: '' }

/** Runs a sample through a model with one block on the device at a time, and for gradients the last blocks with the head. */
export class BlockwiseRun implements SampleRun {
  readonly blocks: number
  readonly #device: Device
  readonly #model: Model
  readonly #source: WeightSource
  readonly #sample: Sample
  readonly #sequences: Sequences

  constructor (device: Device, model: Model, source: WeightSource, sample: Sample) {
    this.blocks = model.layers
    this.#device = device
    this.#model = model
    this.#source = source
    this.#sample = sample
    this.#sequences = sequencesOf(model, sample.ids)
  }

  async embed (): Promise<DeviceTensor> {
    return await this.#withLast(0, async ({ bottom }) => (await bottom.forward(this.#sample.ids, { keepResiduals: false })).hidden)
  }

  async advance (block: number, hidden: readonly DeviceTensor[]): Promise<DeviceTensor[]> {
    const span = await TrainableSpan.load(this.#device, this.#model, this.#source, { first: block, end: block + 1 }, FROZEN)
    const results: DeviceTensor[] = []
    try {
      for (const each of hidden)
        results.push((await span.forward({ hidden: each, ...this.#sequences }, { keepResiduals: false })).hidden)
      return results
    } catch (error) {
      this.#device.free(...results)
      throw error
    } finally {
      span.free()
    }
  }

  async gradient (block: number, hidden: DeviceTensor): Promise<DeviceTensor> {
    return await this.#withLast(this.blocks - block, async ({ top }) => {
      const { gradient, gradients } = await top.train({ hidden, ...this.#sequences }, this.#sample.targets)
      this.#device.free(...gradients.values())
      return gradient
    })
  }

  async losses (hidden: readonly DeviceTensor[]): Promise<number[]> {
    return await this.#withLast(0, async ({ top }) => {
      const losses: number[] = []
      for (const each of hidden) {
        const { lossSum, countedTokens } = await top.evaluate({ hidden: each, ...this.#sequences }, this.#sample.targets)
        losses.push(lossSum / countedTokens)
      }
      return losses
    })
  }

  /** Does something with the embedding, this many last blocks and the head on the device. */
  async #withLast<Result> (outputBlocks: number, use: (client: ClientModel) => Promise<Result>): Promise<Result> {
    const client = await loadClientModel(this.#device, this.#model, this.#source, { inputBlocks: 0, outputBlocks }, FROZEN)
    try {
      return await use(client)
    } finally {
      client.weights.free()
    }
  }
}
