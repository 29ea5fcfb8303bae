import { join } from 'node:path'
import type { Message } from '@bufbuild/protobuf'
import type { PeerId, Stream } from '@libp2p/interface'
import { MidspanError } from '../../errors.ts'
import { openModelDirectory } from '../../model/checkpoint/directory.ts'
import { SafetensorsFile } from '../../model/checkpoint/safetensors.ts'
import { checkModel } from '../../model/families/index.ts'
import { CachedSpan } from '../../model/generation/cached-span.ts'
import { ModelWeights } from '../../model/layers/weights.ts'
import { Boundary } from '../../model/privacy/boundary.ts'
import { openDevice } from '../../model/runtime/open.ts'
import { withAdapter } from '../../model/training/initial-adapter.ts'
import { Optimizer } from '../../model/training/optimizer.ts'
import { Parameters } from '../../model/training/parameters.ts'
import { TrainableSpan } from '../../model/training/trainable-span.ts'
import { GENERATE_PROTOCOL } from '../../protocols/generate/constants.ts'
import * as generate from '../../protocols/generate/messages.ts'
import { MAX_TRAIN_STREAMS, TRAIN_PROTOCOL } from '../../protocols/train/constants.ts'
import * as train from '../../protocols/train/messages.ts'
import { acceptChannel, type Channel, type ChannelOptions } from '../../protocols/wire/channel.ts'
import type { Tensor } from '../../tensor.ts'
import { charteredModel, deviceLine, shapesOf, trainableOf } from '../charter-settings.ts'
import type { RoleContext, RunningRole, ServerContext } from '../context.ts'
import { ExportError, writeExport } from '../export.ts'
import { generateLimits, idleTimeoutOf, trainLimits } from '../message-limits.ts'
import { LocalStage } from '../middle/local-stage.ts'
import { aggregationOf } from '../training/aggregation/factory.ts'
import { CoordinatorState } from '../training/coordinator-state.ts'
import { Coordinator } from '../training/coordinator.ts'
import { GenerationEngine } from './generation/engine.ts'
import { serveGeneration } from './generation/session.ts'
import { TrainSession } from './training/session.ts'

/** Thrown when a peer opens more sessions than the charter gives one client. */
export class TooManySessionsError extends MidspanError {
  constructor (limit: number) {
    super('E_TOO_MANY_SESSIONS', `a client may have ${limit} sessions at a time`, { next: 'close one first' })
  }
}

/** Thrown at peers whose sessions end because this server stops. */
export class StoppingError extends MidspanError {
  constructor () {
    super('E_STOPPING', 'the server is stopping', { next: 'try again when it is back' })
  }
}

/** Serves the middle of a federation's model: training rounds and generation, for all of its clients. */
export async function startServerRole (context: ServerContext): Promise<RunningRole> {
  const { charter, logger, span, settings: { device: kind, threads, compute, weights: format, residuals, residualBytes } } = context
  const model = charteredModel(charter)
  const state = await CoordinatorState.open(join(context.paths.state, 'training.safetensors'), hex(context.charterHash))
  if (state.fellBack) logger.warn({ round: state.round }, 'the newest training state is damaged or missing: the one before it is used')
  const directory = await openModelDirectory(context.paths.model)
  checkModel(model, directory)
  const device = await openDevice(kind, { compute, ...(threads === undefined ? {} : { threads }) })

  const source = charter.adapters.initial === undefined
    ? directory
    : withAdapter(directory, await SafetensorsFile.open(context.paths.adapter))
  const weights = new ModelWeights(device, model, trainableOf(charter), format)
  const blocks = await TrainableSpan.load(device, model, source, span, trainableOf(charter), { weights, policy: residuals, residualBytes })
  const aggregation = aggregationOf(charter)
  // The server keeps what is the same for all holders of a block: it brings back clients that missed rounds.
  if (aggregation.serverHoldsEnds) await weights.loadTrained(source, { first: 0, end: model.layers })
  const optimizer = await Optimizer.open(device, charter.training.optimizer)
  const parameters = await Parameters.create(device, weights.trained)
  await parameters.restore(state.tensors)

  const shapes = shapesOf(charter, [{ first: 0, end: model.layers }])
  const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: charter.wire })
  const stage = new LocalStage({ device, span: blocks, boundary })
  const strategy = aggregation.server({ device, optimizer, parameters, shapes, state })
  const coordinator = new Coordinator({ plan: charter, stage, strategy, state, logger })
  const { cacheBytes } = charter.limits
  const engine = new GenerationEngine({ device, model, blocks: new CachedSpan(weights), boundary, cacheBytes, span })

  const stopping = new AbortController()
  const sessions = new Sessions(context, stopping.signal)
  await sessions.serve(TRAIN_PROTOCOL, {
    outgoing: train.ServerMessageSchema,
    incoming: train.ClientMessageSchema,
    limits: trainLimits(charter, shapes)
  }, async (channel, signal) => {
    await new TrainSession(channel, { charter, model, coordinator, stage, strategy, state }).run(signal)
  })
  await sessions.serve(GENERATE_PROTOCOL, {
    outgoing: generate.ServerMessageSchema,
    incoming: generate.ClientMessageSchema,
    limits: generateLimits(charter)
  }, async (channel, signal) => {
    await serveGeneration(channel, { charter, model, engine, span }, signal)
  })
  const training = coordinator.run(stopping.signal)

  let stopped: Promise<void> | undefined
  const stop = async (): Promise<void> => {
    await Promise.all([TRAIN_PROTOCOL, GENERATE_PROTOCOL].map(async (protocol) => { await context.unhandle(protocol) }))
    stopping.abort(new StoppingError())
    await Promise.all([training, sessions.ended()])
    await device.close()
  }
  return {
    status: () => ({
      blocks: [[span.first, span.end]],
      device: deviceLine(context.settings),
      sessions: sessions.list(),
      round: state.round,
      members: coordinator.members.peers,
      training: {
        round: state.round,
        members: coordinator.members.size,
        waitingFor: coordinator.current?.waitingFor ?? [],
        fellBack: state.fellBack,
        residuals: [blocks.residuals.report]
      },
      generation: {
        sequences: engine.caches.sequences,
        cacheBytes: engine.caches.heldBytes,
        cacheLimitBytes: charter.limits.cacheBytes,
        evictions: engine.caches.evictions
      }
    }),
    load: () => ({ sessions: sessions.list().length, ...engine.load }),
    removed: (peer) => { coordinator.expel(peer) },
    operations: {
      async *export (parameters, signal) {
        if (!aggregation.serverHoldsEnds)
          throw new ExportError(
            'with personal ends this server knows only the middle',
            'export on a client, each of which has ends of its own'
          )
        const { round, names, tensors } = await strategy.committed()
        const values = new Map(names.map((name, index) => [name, tensors[index] as Tensor]))
        yield* writeExport(
          { ...parameters, model: parameters.model ?? context.paths.model, charter, trained: { round, values } },
          signal
        )
      }
    },
    stop: async () => { await (stopped ??= stop()) }
  }
}

type Serve<Out, In> = (channel: Channel<Out, In>, signal: AbortSignal) => Promise<void>

/** The sealed sessions that clients have with this server. */
class Sessions {
  readonly #context: RoleContext
  readonly #signal: AbortSignal
  readonly #open = new Map<Promise<void>, { readonly peer: string, readonly kind: string }>()

  constructor (context: RoleContext, signal: AbortSignal) {
    this.#context = context
    this.#signal = signal
  }

  list (): Array<{ readonly peer: string, readonly kind: string }> {
    return [...this.#open.values()]
  }

  async ended (): Promise<void> {
    await Promise.allSettled(this.#open.keys())
  }

  async serve<Out extends Message, In extends Message> (
    protocol: string,
    options: Pick<ChannelOptions<Out, In>, 'outgoing' | 'incoming' | 'limits'>,
    serve: Serve<Out, In>
  ): Promise<void> {
    await this.#context.handle(protocol, async (stream, remotePeer) => {
      const session = this.#run(stream, remotePeer, { ...options, protocol }, serve)
      this.#open.set(session, { peer: remotePeer.toString(), kind: protocol.split('/')[2] ?? protocol })
      await session.finally(() => { this.#open.delete(session) })
    }, { maxInboundStreams: MAX_TRAIN_STREAMS })
  }

  async #run<Out extends Message, In extends Message> (
    stream: Stream,
    remotePeer: PeerId,
    options: Pick<ChannelOptions<Out, In>, 'protocol' | 'outgoing' | 'incoming' | 'limits'>,
    serve: Serve<Out, In>
  ): Promise<void> {
    const { identity, charter, charterHash, logger } = this.#context
    const others = this.list().filter(({ peer }) => peer === remotePeer.toString()).length
    const parties = { identity, remotePeer, charter: charterHash }
    const channel = await acceptChannel(stream, { ...options, ...parties, idleTimeoutMs: idleTimeoutOf(charter) }, this.#signal)
    try {
      if (others >= charter.limits.maxSessionsPerClient) throw new TooManySessionsError(charter.limits.maxSessionsPerClient)
      await serve(channel, this.#signal)
    } catch (error) {
      if (error instanceof MidspanError && error.code === 'E_CHANNEL_CLOSED') {
        await channel.close()
        return
      }
      logger.info({ peer: remotePeer.toString(), protocol: options.protocol, err: error }, 'a session ended')
      channel.abort(error instanceof Error ? error : new Error(String(error)))
    }
  }
}

function hex (bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
