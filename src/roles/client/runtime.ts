import { join } from 'node:path'
import { MidspanError } from '../../errors.ts'
import { openModelDirectory, type ModelDirectory } from '../../model/checkpoint/directory.ts'
import { checkWeights, clientTensors, type Model } from '../../model/families/index.ts'
import { Boundary, type Protection } from '../../model/privacy/boundary.ts'
import type { Device } from '../../model/runtime/device.ts'
import { openDevice } from '../../model/runtime/open.ts'
import { loadTokenizer } from '../../model/text/load.ts'
import type { Tokenizer } from '../../model/text/tokenizer.ts'
import { loadClientModel, type ClientModel } from '../../model/training/client-model.ts'
import { Optimizer } from '../../model/training/optimizer.ts'
import { Parameters } from '../../model/training/parameters.ts'
import type { ClientSettings } from '../../protocols/charter/index.ts'
import { GENERATE_PROTOCOL } from '../../protocols/generate/constants.ts'
import * as generate from '../../protocols/generate/messages.ts'
import { TRAIN_PROTOCOL } from '../../protocols/train/constants.ts'
import * as train from '../../protocols/train/messages.ts'
import { BadMessageError } from '../../protocols/wire/errors.ts'
import type { Tensor } from '../../tensor.ts'
import { charteredModel, clientSpans, protectionOf, shapesOf, trainableOf } from '../charter-settings.ts'
import type { ClientContext } from '../context.ts'
import { generateLimits, trainLimits } from '../message-limits.ts'
import { aggregationOf } from '../training/aggregation/factory.ts'
import type { AdapterShape } from '../training/aggregation/strategy.ts'
import { openSession } from './sessions.ts'
import { AdapterState } from './training/adapter-state.ts'
import { ClientEnds } from './training/client-ends.ts'
import { readProgress, type ProgressMeta } from './training/progress.ts'

/** Thrown when a second training is asked for. */
export class TrainingBusyError extends MidspanError {
  constructor () {
    super('E_BUSY', 'this client is training already', { next: 'wait for it, or stop it' })
  }
}

/** Adapters as of a round. */
export interface AdapterSnapshot {
  readonly round: number
  readonly values: ReadonlyMap<string, Tensor>
}

/** A client's ends on its device, its place in the federation, and its way to the servers: what all operations share. */
export class ClientRuntime {
  readonly context: ClientContext
  readonly model: Model
  readonly directory: ModelDirectory
  readonly device: Device
  readonly ends: ClientModel
  readonly tokenizer: Tokenizer
  readonly boundary: Boundary
  readonly state: AdapterState
  /** As last written; undefined before the first training. */
  progress: ProgressMeta | undefined
  readonly #shapes: readonly AdapterShape[]
  readonly #parameters: Parameters
  #current: { readonly signal: AbortSignal, readonly ended: Promise<void> } | undefined
  /** The round that shared adapters were last fetched at. */
  #fetchedRound: number | undefined

  private constructor (
    parts: Pick<ClientRuntime, 'context' | 'model' | 'directory' | 'device' | 'ends' | 'tokenizer' | 'boundary' | 'state' | 'progress'> & {
      parameters: Parameters,
      shapes: readonly AdapterShape[]
    }
  ) {
    this.context = parts.context
    this.model = parts.model
    this.directory = parts.directory
    this.device = parts.device
    this.ends = parts.ends
    this.tokenizer = parts.tokenizer
    this.boundary = parts.boundary
    this.state = parts.state
    this.progress = parts.progress
    this.#parameters = parts.parameters
    this.#shapes = parts.shapes
  }

  static async open (context: ClientContext): Promise<ClientRuntime> {
    const {
      charter,
      client: { partition },
      paths,
      settings: { device: kind, threads, compute, weights: format, residuals, residualBytes }
    } = context
    const model = charteredModel(charter)
    const path = join(paths.state, 'training.safetensors')
    const saved = await readProgress(path, Buffer.from(context.charterHash).toString('hex'), partition)
    const directory = await openModelDirectory(paths.model)
    checkWeights(model, directory, clientTensors(model, partition))
    const tokenizer = await loadTokenizer(paths.model)
    const device = await openDevice(kind, { compute, ...(threads === undefined ? {} : { threads }) })
    const ends = await loadClientModel(device, model, directory, partition, trainableOf(charter), {
      format,
      policy: residuals,
      residualBytes
    })
    const parameters = await Parameters.create(device, ends.weights.trained)
    const optimizer = await Optimizer.open(device, charter.training.optimizer)
    const shapes = shapesOf(charter, clientSpans(charter, partition))
    const state = await AdapterState.open({ charter, device, optimizer, parameters, shapes, path }, saved?.tensors)
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: charter.wire })
    return new ClientRuntime({
      context,
      model,
      directory,
      device,
      ends,
      tokenizer,
      boundary,
      state,
      progress: saved?.meta,
      parameters,
      shapes
    })
  }

  get training (): boolean { return this.#current !== undefined }

  /** Runs something as the one training of this client, after one that was told to stop. Throws TrainingBusyError. */
  async * exclusively<Event> (work: () => AsyncIterable<Event>, signal: AbortSignal): AsyncGenerator<Event> {
    while (this.#current?.signal.aborted === true) await this.#current.ended
    if (this.#current !== undefined) throw new TrainingBusyError()
    const { promise: ended, resolve } = Promise.withResolvers<void>()
    this.#current = { signal, ended }
    try {
      yield * work()
    } finally {
      this.#current = undefined
      this.#fetchedRound = undefined
      resolve()
    }
  }

  /** The ends behind a boundary with this noise. */
  clientEnds (settings: ClientSettings): ClientEnds {
    const { device, ends, boundary, context: { charter, peerId }, model } = this
    return new ClientEnds({
      device,
      ends,
      boundary,
      peer: peerId.toString(),
      wire: charter.wire,
      hiddenSize: model.hiddenSize,
      protection: this.protection(settings)
    })
  }

  protection (settings: ClientSettings = this.context.client): { hidden: Protection, gradient: Protection } {
    return protectionOf(this.context.charter, settings)
  }

  async openTraining (signal: AbortSignal): Promise<train.TrainClientChannel> {
    const { charter } = this.context
    const shapes = shapesOf(charter, [{ first: 0, end: charter.model.blocks }])
    return await openSession(this.context, {
      protocol: TRAIN_PROTOCOL,
      outgoing: train.ClientMessageSchema,
      incoming: train.ServerMessageSchema,
      limits: trainLimits(charter, shapes)
    }, signal)
  }

  async openGeneration (signal: AbortSignal): Promise<generate.GenerateClientChannel> {
    return await openSession(this.context, {
      protocol: GENERATE_PROTOCOL,
      outgoing: generate.ClientMessageSchema,
      incoming: generate.ServerMessageSchema,
      limits: generateLimits(this.context.charter)
    }, signal)
  }

  /**
   * With shared ends, brings this client's adapters to the server's round, so that both ends fit the middle. Training does so by itself.
   */
  async refresh (channel: train.TrainClientChannel, signal: AbortSignal): Promise<void> {
    const { charter, client: { partition } } = this.context
    if (!aggregationOf(charter).client.sharesAdapters || this.training) return
    const [input, output] = clientSpans(charter, partition)
    const { round, values } = await fetchAdapters(channel, {
      knownRound: this.#fetchedRound,
      except: { first: input.end, end: output.first }
    }, signal)
    if (this.training) return
    await this.#parameters.restore(this.state.checked([...values.keys()], [...values.values()]))
    this.#fetchedRound = round
  }

  /** The same, on a stream of its own. */
  async refreshAlone (signal: AbortSignal): Promise<void> {
    if (!aggregationOf(this.context.charter).client.sharesAdapters || this.training) return
    const channel = await this.openTraining(signal)
    try {
      await this.refresh(channel, signal)
    } finally {
      await channel.close()
    }
  }

  /** Every adapter of the model: the server's, with this client's own in place of those of its blocks where they are not shared. */
  async allAdapters (signal: AbortSignal): Promise<AdapterSnapshot> {
    const channel = await this.openTraining(signal)
    try {
      const { round, values } = await fetchAdapters(channel, {}, signal)
      if (aggregationOf(this.context.charter).client.sharesAdapters) return { round, values }
      return { round, values: new Map([...values, ...await this.#parameters.values(this.#shapes.map(({ name }) => name))]) }
    } finally {
      await channel.close()
    }
  }

  async close (): Promise<void> {
    await this.device.close()
  }
}

async function fetchAdapters (
  channel: train.TrainClientChannel,
  wanted: { knownRound?: number | undefined, except?: { first: number, end: number } },
  signal: AbortSignal
): Promise<AdapterSnapshot> {
  const { knownRound, except } = wanted
  await channel.send(
    train.fromClient({
      case: 'fetchAdapters',
      value: { ...(knownRound === undefined ? {} : { knownRound }), ...(except === undefined ? {} : { except }) }
    }),
    [],
    signal
  )
  const { message: { kind }, tensors } = await channel.receive(signal)
  if (kind.case !== 'adapters' || kind.value.names.length !== tensors.length)
    throw new BadMessageError('the server answered something else than it was asked')
  return { round: kind.value.round, values: new Map(kind.value.names.map((name, index) => [name, tensors[index] as Tensor])) }
}
