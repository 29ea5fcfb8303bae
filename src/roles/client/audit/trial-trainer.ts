import { randomBytes } from 'node:crypto'
import type { Encoding } from '../../../encoding.ts'
import type { Model } from '../../../model/families/index.ts'
import type { AdapterTraining } from '../../../model/layers/trainable.ts'
import type { WeightFormat } from '../../../model/layers/weight-format.ts'
import type { WeightSource } from '../../../model/layers/weights.ts'
import { Boundary } from '../../../model/privacy/boundary.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import type { Batches, Cursor } from '../../../model/text/batches.ts'
import { loadClientModel, type ClientModel } from '../../../model/training/client-model.ts'
import { clippingCoefficient, Optimizer, type OptimizerSettings } from '../../../model/training/optimizer.ts'
import { initialGate } from '../../../model/training/own-stream.ts'
import { Parameters } from '../../../model/training/parameters.ts'
import { TrainableSpan } from '../../../model/training/trainable-span.ts'
import type { Partition } from '../../../protocols/charter/schema.ts'
import type { ClientProtection } from '../../charter-settings.ts'
import { LocalStage } from '../../middle/local-stage.ts'
import type { BatchItem } from '../../middle/stage.ts'
import { dropoutSeed } from '../../training/participant.ts'
import { ReleaseSecret } from '../release-secret.ts'
import { ClientRound } from '../training/client-round.ts'
import { lossOf, releaseBatch, type ReleasedBatch } from '../training/evaluation.ts'
import { Releases } from '../training/releases.ts'
import { GATE } from '../training/withheld-gate.ts'

const PEER = 'trial'

/** Nothing leaves: what a trial releases goes to the blocks beside it. */
const NO_LEDGER = { record: async (): Promise<void> => { await Promise.resolve() } }

export interface TrialSettings {
  readonly device: Device
  readonly model: Model
  readonly partition: Partition
  readonly trainable: AdapterTraining
  readonly optimizer: OptimizerSettings
  readonly rounding: Encoding
  readonly format: WeightFormat
  /** The client's ends. */
  readonly ends: WeightSource
  /** The blocks between them; without them the middle is skipped, and the client works alone. */
  readonly middle: WeightSource | undefined
  readonly protection: ClientProtection
}

/**
 * Trains a copy of the model from its first adapters, on this machine alone: the client's ends, and, where there are weights for it, the
 * middle beside them, with what crosses protected as it is at work. The adapters of the client itself stay as they are.
 */
export class TrialTrainer {
  readonly #settings: TrialSettings
  readonly #client: ClientModel
  readonly #middle: { readonly span: TrainableSpan, readonly stage: LocalStage, readonly parameters: Parameters } | undefined
  readonly #ends: Parameters
  /** How much of what the middle adds goes to withheld tokens. */
  readonly #gate: Parameters
  readonly #optimizer: Optimizer
  readonly #boundary: Boundary
  readonly #releases: Releases
  #cursor: Cursor = { epoch: 0, index: 0 }
  #round = 0

  private constructor (
    settings: TrialSettings,
    parts: {
      readonly client: ClientModel
      readonly middle: TrainableSpan | undefined
      readonly middleParameters: Parameters | undefined
      readonly ends: Parameters
      readonly gate: Parameters
      readonly optimizer: Optimizer
    }
  ) {
    const { device, model, rounding, protection } = settings
    const { client, middle, middleParameters, ends, gate, optimizer } = parts
    this.#settings = settings
    this.#client = client
    this.#ends = ends
    this.#gate = gate
    this.#optimizer = optimizer
    const boundary = this.#boundary = new Boundary(device, { hidden: model.hiddenSize, rounding })
    this.#middle = middle === undefined || middleParameters === undefined
      ? undefined
      : { span: middle, stage: new LocalStage({ device, span: middle, boundary }), parameters: middleParameters }
    // A key of its own: the noise of a trial is none that ever leaves.
    const secret = new ReleaseSecret(randomBytes(32), randomBytes(32))
    this.#releases = new Releases({ device, boundary, secret, ledger: NO_LEDGER }, { protection, run: PEER })
  }

  /** Loads the parts onto the device. The caller frees the trainer. */
  static async load (settings: TrialSettings): Promise<TrialTrainer> {
    const { device, model, partition, trainable, format, ends: source, middle: middleSource, optimizer } = settings
    const client = await loadClientModel(device, model, source, partition, trainable, { format })
    try {
      const { inputBlocks, outputBlocks } = partition
      const span = { first: inputBlocks, end: model.layers - outputBlocks }
      const middle = middleSource === undefined
        ? undefined
        : await TrainableSpan.load(device, model, middleSource, span, trainable, { format })
      return new TrialTrainer(settings, {
        client,
        middle,
        middleParameters: middle === undefined ? undefined : await Parameters.create(device, middle.weights.trained),
        ends: await Parameters.create(device, client.weights.trained),
        gate: await Parameters.create(device, new Map([[GATE, await device.upload(initialGate(model.hiddenSize))]])),
        optimizer: await Optimizer.open(device, optimizer)
      })
    } catch (error) {
      client.weights.free()
      throw error
    }
  }

  /** Takes an optimiser step on the next batch. Returns its mean loss. */
  async step (batches: Batches, learningRate: number, maxGradientNorm: number | null): Promise<number> {
    const { device } = this.#settings
    const gate = { value: this.#gate.value(GATE) }
    const components = { device, model: this.#client, boundary: this.#boundary, releases: this.#releases, batches, gate }
    using round = new ClientRound(components, { round: this.#round++, peer: PEER, cursor: this.#cursor })
    const item = await round.forward()
    const gradients = await this.#through(round, item)
    try {
      const { lossSum, lossTokens, tokens } = round.figures
      if (round.gateGradients.size > 0) await this.#gate.step(this.#optimizer, round.gateGradients, { learningRate, scale: 1 / tokens })
      const taken: Array<readonly [Parameters, ReadonlyMap<string, DeviceTensor>]> = [[this.#ends, round.gradients]]
      if (this.#middle !== undefined) taken.push([this.#middle.parameters, gradients])
      for (const [parameters, own] of taken) {
        const norm = await this.#optimizer.norm(own.values()) / tokens
        await parameters.step(this.#optimizer, own, { learningRate, scale: clippingCoefficient(norm, maxGradientNorm) / tokens })
      }
      this.#cursor = batches.at(this.#cursor).next
      return lossSum / lossTokens
    } finally {
      device.free(...gradients.values())
    }
  }

  /** Computes the mean loss of some batches, as an evaluation does. */
  async evaluate (batches: Batches, count: number, signal: AbortSignal): Promise<number> {
    const { device, protection } = this.#settings
    const gate = { value: (await this.#gate.values()).get(GATE)! }
    const components = { device, clientModel: this.#client, boundary: this.#boundary, ledger: NO_LEDGER, gate }
    let [lossSum, tokens] = [0, 0]
    for (let index = 0; index < Math.min(count, batches.count(0)); index++) {
      signal.throwIfAborted()
      const { batch } = batches.at({ epoch: 0, index })
      const isSent = batch.ids.length > 0
      const released: ReleasedBatch = isSent
        ? await releaseBatch(components, batch, protection, { evaluation: PEER, index, recordRows: 0 })
        : { batch, lengths: [], tensors: [] }
      const { lengths, contexts, tensors } = released
      const outputs = this.#middle === undefined || !isSent
        ? tensors
        : await this.#middle.stage.evaluate({ id: PEER, ...this.#middle.span.span, lengths, contexts, tensors })
      const loss = await lossOf(components, released, outputs)
      lossSum += loss.lossSum
      tokens += loss.countedTokens
    }
    return lossSum / tokens
  }

  /** Frees all weights and what the optimiser keeps. */
  free (): void {
    this.#ends.free()
    this.#settings.device.free(this.#gate.value(GATE))
    this.#gate.free()
    this.#client.weights.free()
    this.#middle?.parameters.free()
    this.#middle?.span.free()
  }

  /** Takes a round through the middle, or past it, and returns the gradients of what the middle trains, which the caller frees. */
  async #through (round: ClientRound, item: Omit<BatchItem, 'first' | 'end'>): Promise<Map<string, DeviceTensor>> {
    if (this.#middle === undefined) {
      await round.finish((await round.learn(item.tensors)).tensors)
      return new Map()
    }
    const { stage } = this.#middle
    const forward = await stage.forward([{ ...item, ...stage.span }], { dropoutSeed: dropoutSeed(round.round, round.pass) })
    try {
      const gradient = await round.learn(forward.hidden.get(PEER) ?? [])
      const inputs = await forward.backward(new Map([[PEER, gradient]]))
      await round.finish(inputs.get(PEER) ?? [])
      return forward.takeGradients()
    } finally {
      forward.free()
    }
  }
}
