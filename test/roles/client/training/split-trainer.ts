import type { Encoding } from '../../../../src/encoding.ts'
import type { Model } from '../../../../src/model/families/index.ts'
import type { AdapterSettings } from '../../../../src/model/layers/lora.ts'
import type { WeightSource } from '../../../../src/model/layers/weights.ts'
import { Boundary } from '../../../../src/model/privacy/boundary.ts'
import type { Device, DeviceTensor } from '../../../../src/model/runtime/device.ts'
import { Batches, type Cursor } from '../../../../src/model/text/batches.ts'
import type { Example } from '../../../../src/model/text/dataset.ts'
import { loadClientModel, type ClientModel } from '../../../../src/model/training/client-model.ts'
import { clippingCoefficient, Optimizer } from '../../../../src/model/training/optimizer.ts'
import { initialGate } from '../../../../src/model/training/own-stream.ts'
import { Parameters } from '../../../../src/model/training/parameters.ts'
import { TrainableSpan } from '../../../../src/model/training/trainable-span.ts'
import type { ClientProtection } from '../../../../src/roles/charter-settings.ts'
import { ReleaseSecret } from '../../../../src/roles/client/release-secret.ts'
import { ClientRound } from '../../../../src/roles/client/training/client-round.ts'
import { lossOf, releaseBatch, type ReleasedBatch } from '../../../../src/roles/client/training/evaluation.ts'
import { Releases } from '../../../../src/roles/client/training/releases.ts'
import { GATE } from '../../../../src/roles/client/training/withheld-gate.ts'
import { LocalStage } from '../../../../src/roles/middle/local-stage.ts'
import type { BatchItem } from '../../../../src/roles/middle/stage.ts'

const PEER = 'client'

/** A ledger that nobody asks. */
export const UNCOUNTED = { record: async (): Promise<void> => { await Promise.resolve() } }
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }

export interface SplitTrainerOptions {
  readonly model: Model
  readonly source: WeightSource
  readonly adapters: AdapterSettings
  readonly protection: ClientProtection
  readonly wire?: Encoding
  /** Tokens that each sequence of the data has, and sequences of a batch. */
  readonly tokens: number
  readonly sequences: number
  readonly data: readonly Example[]
  /** Packed unless given. */
  readonly packing?: 'packed' | 'padded'
  readonly inputBlocks?: number
  readonly outputBlocks?: number
  /** Whether the client works alone: the middle is skipped. */
  readonly isAlone?: boolean
}

/** One client and its middle in this process, without a network: what leaves the client passes its boundary as it does at work. */
export class SplitTrainer {
  readonly device: Device
  readonly client: ClientModel
  readonly middle: LocalStage
  readonly boundary: Boundary
  readonly batches: Batches
  readonly protection: ClientProtection
  readonly ends: Parameters
  /** The gate of withheld words. */
  readonly gate: Parameters
  /** What the middle trains. */
  readonly middleParameters: Parameters
  readonly #optimizer: Optimizer
  readonly #releases: Releases
  readonly #isAlone: boolean
  #cursor: Cursor = { epoch: 0, index: 0 }
  #round = 0

  private constructor (
    device: Device,
    parts: Pick<SplitTrainer, 'client' | 'middle' | 'boundary' | 'batches' | 'protection' | 'ends' | 'gate'>,
    middleParameters: Parameters,
    optimizer: Optimizer,
    isAlone: boolean
  ) {
    this.device = device
    this.client = parts.client
    this.middle = parts.middle
    this.boundary = parts.boundary
    this.batches = parts.batches
    this.protection = parts.protection
    this.ends = parts.ends
    this.gate = parts.gate
    this.middleParameters = middleParameters
    this.#optimizer = optimizer
    this.#isAlone = isAlone
    const secret = new ReleaseSecret(new Uint8Array(32).fill(7), new Uint8Array(32))
    const { boundary, protection } = parts
    this.#releases = new Releases({ device, boundary, secret, ledger: UNCOUNTED }, { protection, run: 'run' })
  }

  /** Loads both parts onto a device, which the caller closes. */
  static async load (
    device: Device,
    { model, source, adapters, protection, wire = 'fp32', isAlone = false, ...options }: SplitTrainerOptions
  ): Promise<SplitTrainer> {
    const { tokens, sequences, data, packing = 'packed', inputBlocks = 1, outputBlocks = 1 } = options
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: wire })
    const client = await loadClientModel(device, model, source, { inputBlocks, outputBlocks }, adapters)
    const span = await TrainableSpan.load(device, model, source, { first: inputBlocks, end: model.layers - outputBlocks }, adapters)
    const batches = new Batches(data, { seed: '0', sequences, mode: packing, windowLength: tokens, ownLength: model.maxPositions })
    const middle = new LocalStage({ device, span, boundary })
    const ends = await Parameters.create(device, client.weights.trained)
    const gate = await Parameters.create(device, new Map([[GATE, await device.upload(initialGate(model.hiddenSize))]]))
    return new SplitTrainer(
      device,
      { client, middle, boundary, batches, protection, ends, gate },
      await Parameters.create(device, span.weights.trained),
      await Optimizer.open(device, ADAMW),
      isAlone
    )
  }

  /**
   * Computes the pass of the batch at a cursor. Returns its mean loss, and gradients of the summed loss for what the client and the middle
   * train, which the caller frees.
   */
  async pass (
    cursor: Cursor
  ): Promise<Record<'loss' | 'tokens' | 'lossTokens', number> & Record<'ends' | 'middle' | 'gate', Map<string, DeviceTensor>>> {
    const { device, client: model, boundary, batches } = this
    const components = { device, model, boundary, releases: this.#releases, batches, gate: { value: this.gate.value(GATE) } }
    using round = new ClientRound(components, { round: this.#round++, peer: PEER, cursor })
    const item = { ...await round.forward(), ...this.middle.span }
    const middle = this.#isAlone ? await alone(round, item) : await this.#through(round, item)
    const { lossSum, lossTokens, tokens } = round.figures
    const [ends, gate] = [await this.#copied(round.gradients), await this.#copied(round.gateGradients)]
    return { loss: lossSum / lossTokens, lossTokens, tokens, ends, middle, gate }
  }

  /** Copies gradients of a round, which frees its own. */
  async #copied (gradients: ReadonlyMap<string, DeviceTensor>): Promise<Map<string, DeviceTensor>> {
    const copies = new Map<string, DeviceTensor>()
    for (const [name, tensor] of gradients) copies.set(name, await this.device.upload(await this.device.download(tensor)))
    return copies
  }

  /** Takes a round through the middle, and returns the gradients of what that trains. */
  async #through (round: ClientRound, item: BatchItem): Promise<Map<string, DeviceTensor>> {
    const forward = await this.middle.forward([item], { dropoutSeed: '' })
    const gradient = await round.learn(forward.hidden.get(PEER) ?? [])
    const inputs = await forward.backward(new Map([[PEER, gradient]]))
    await round.finish(inputs.get(PEER) ?? [])
    const gradients = forward.takeGradients()
    forward.free()
    return gradients
  }

  /** Takes an optimiser step on the next batch. Returns its mean loss. */
  async step (learningRate: number, maxGradientNorm: number | null = null): Promise<number> {
    const { loss, tokens, ends, middle, gate } = await this.pass(this.#cursor)
    await this.gate.step(this.#optimizer, gate, { learningRate, scale: 1 / tokens })
    this.device.free(...gate.values())
    for (const [parameters, gradients] of [[this.ends, ends], [this.middleParameters, middle]] as const) {
      const norm = await this.#optimizer.norm(gradients.values()) / tokens
      const scale = clippingCoefficient(norm, maxGradientNorm) / tokens
      await parameters.step(this.#optimizer, gradients, { learningRate, scale })
      this.device.free(...gradients.values())
    }
    this.#cursor = this.batches.at(this.#cursor).next
    return loss
  }

  /** Computes the mean loss of batches as an evaluation does. */
  async evaluate (batches: Batches, count = batches.count(0)): Promise<number> {
    let [lossSum, tokens] = [0, 0]
    const gate = await this.gate.values()
    const components = {
      device: this.device, clientModel: this.client, boundary: this.boundary, ledger: UNCOUNTED, gate: { value: gate.get(GATE)! }
    }
    for (let index = 0; index < count; index++) {
      const { batch: measured } = batches.at({ epoch: 0, index })
      const isSent = measured.ids.length > 0
      const released = isSent
        ? await releaseBatch(components, measured, this.protection, { evaluation: 'evaluation', index, recordRows: 1 })
        : { batch: measured, lengths: [], tensors: [] }
      const { batch: _, kept: __, ...item }: ReleasedBatch = released
      const outputs = this.#isAlone || !isSent ? released.tensors : await this.middle.evaluate({ id: PEER, ...this.middle.span, ...item })
      const loss = await lossOf(components, released, outputs)
      lossSum += loss.lossSum
      tokens += loss.countedTokens
    }
    return lossSum / tokens
  }
}

/** Takes a round past a middle that adds nothing and trains nothing. */
async function alone (round: ClientRound, { tensors }: BatchItem): Promise<Map<string, DeviceTensor>> {
  await round.finish((await round.learn(tensors)).tensors)
  return new Map()
}
