import { join } from 'node:path'
import { Optimizer } from '../../../model/training/optimizer.ts'
import { Parameters } from '../../../model/training/parameters.ts'
import { STAGE_PROTOCOL } from '../../../protocols/stage/constants.ts'
import * as stageMessages from '../../../protocols/stage/messages.ts'
import { MAX_TRAIN_STREAMS, TRAIN_PROTOCOL } from '../../../protocols/train/constants.ts'
import * as train from '../../../protocols/train/messages.ts'
import { openChannel } from '../../../protocols/wire/channel.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import { servableSpan, shapesOf } from '../../charter-settings.ts'
import type { KnownServer, ServerContext } from '../../context.ts'
import { ExportError, writeExport } from '../../export.ts'
import { idleTimeoutOf, stageLimits, trainLimits } from '../../message-limits.ts'
import { isSignedByPeer } from '../../secure-messages.ts'
import { aggregationOf, coordinatorStrategy } from '../../training/aggregation/factory.ts'
import { blockOf, type AdapterShape, type AggregationStrategy } from '../../training/aggregation/strategy.ts'
import { CoordinatorState, type StateCopy } from '../../training/coordinator-state.ts'
import { Coordinator } from '../../training/coordinator.ts'
import { Replicas } from '../../training/hierarchy/replicas.ts'
import type { ServerRuntime } from '../runtime.ts'
import type { Sessions } from '../sessions.ts'
import { DistributedStage } from './distributed-stage.ts'
import { LocalHolder } from './holder.ts'
import type { TrainingPart } from './part.ts'
import { TrainSession } from './session.ts'
import { TRAINING_FILE } from './state-files.ts'
import { WorkerLink } from './worker-link.ts'
import type { AdapterSource } from './worker-session.ts'
import { Workers } from './workers.ts'

/** How often clients are told what a round waits for: a client that hears nothing for five minutes takes its connection for broken. */
const MISSING_REPEAT_MS = 60_000

/** What a part of training is started with. */
export interface TrainingPartComponents {
  readonly context: ServerContext
  readonly runtime: ServerRuntime
  readonly sessions: Sessions
  /** Ends all work. */
  readonly signal: AbortSignal
}

/**
 * Leads the rounds of training: serves clients' training streams, has its own blocks and workers compute, takes the optimiser's step and
 * keeps the state.
 */
export async function startCoordination ({ context, runtime, sessions, signal }: TrainingPartComponents): Promise<TrainingPart> {
  const { charter, logger, peerId } = context
  const { device, model, source, weights, blocks, stage: localStage } = runtime
  const state = await CoordinatorState.open(join(context.paths.state, TRAINING_FILE), hex(context.charterHash))
  if (state.fellBack) logger.warn({ round: state.round }, 'the newest training state is damaged or missing: the one before it is used')
  const aggregation = aggregationOf(charter)
  // The coordinator keeps what is the same for all holders of a block: it brings workers to the round, and clients that missed rounds.
  await weights.loadTrained(source, aggregation.serverHoldsEnds ? { first: 0, end: model.layers } : servableSpan(charter))
  const optimizer = await Optimizer.open(device, charter.training.optimizer)
  const parameters = await Parameters.create(device, weights.trained)
  await parameters.restore(state.tensors)

  const shapes = shapesOf(charter, [{ first: 0, end: model.layers }])
  const replicas = charter.averageEvery === undefined ? undefined : new Replicas(state, charter.averageEvery)
  const strategy = coordinatorStrategy(
    charter,
    { device, optimizer, parameters, shapes, state },
    replicas === undefined ? undefined : { replicas, self: peerId.toString() }
  )
  const workers = new Workers({
    directory: context,
    local: localStage.span.first < localStage.span.end ? new LocalHolder(peerId.toString(), localStage) : undefined,
    blocks: model.layers,
    link: linker({ context, runtime, shapes, adapters: (server) => adapterSource(strategy, state, server), copy: () => state.copy }),
    logger,
    signal
  })
  const tellMissing = (): void => {
    if (stage.missing.length === 0) return
    const { members, needed } = coordinator
    for (const { participant } of members.all)
      participant?.waiting({ members: members.size, needed, sitsOutRounds: 0, missing: stage.missing })
  }
  const stage = new DistributedStage({ device, holders: workers, replicas, logger, missingChanged: tellMissing, signal })
  const repeating = setInterval(tellMissing, MISSING_REPEAT_MS).unref()
  const coordinator = new Coordinator({
    plan: charter, stage, strategy, state, logger, secure: secureSums(context), stepped: () => { workers.refresh() }
  })
  await sessions.serve(TRAIN_PROTOCOL, {
    outgoing: train.ServerMessageSchema,
    incoming: train.ClientMessageSchema,
    limits: trainLimits(charter, shapes),
    maxStreams: MAX_TRAIN_STREAMS
  }, async (channel, ended) => {
    await new TrainSession(channel, { charter, model, coordinator, stage, strategy, state }).run(ended)
  })
  // A server that was let lead one day has the state at once, and not after the next round alone.
  const stopRefreshing = context.onServersChanged(() => { workers.refresh() })
  const training = coordinator.run(signal)
  return {
    adapters: { get round () { return coordinator.isStepping ? undefined : state.round } },
    status: () => ({
      round: state.round,
      members: coordinator.members.peers,
      training: {
        round: state.round,
        members: coordinator.members.size,
        waitingFor: coordinator.current?.waitingFor ?? [],
        missing: stage.missing,
        fellBack: state.fellBack,
        residuals: [blocks.residuals.report]
      }
    }),
    ready: async () => {},
    // A server that leads stays where it is.
    isIdle: false,
    removed: (peer) => { coordinator.expel(peer) },
    operations: {
      async *export (parameters, ended) {
        if (!aggregation.serverHoldsEnds)
          throw new ExportError(
            'with personal ends this server knows only the middle',
            'export on a client, each of which has ends of its own'
          )
        const { round, names, tensors } = await strategy.committed()
        const values = new Map(names.map((name, index) => [name, tensors[index] as Tensor]))
        yield* writeExport(
          { ...parameters, model: parameters.model ?? context.paths.model, charter, trained: { round, values } },
          ended
        )
      }
    },
    ended: async () => {
      clearInterval(repeating)
      stopRefreshing()
      workers.stop()
      await training
    }
  }
}

/** What a federation's secure sums need; undefined where clients hand their contributions in. */
function secureSums ({ charter: { aggregation }, charterHash }: ServerContext) {
  if (aggregation.mode === 'plain') return undefined
  return { federation: hex(charterHash), minContributors: aggregation.minContributors, verify: isSignedByPeer }
}

interface LinkerComponents extends Pick<TrainingPartComponents, 'context' | 'runtime'> {
  readonly shapes: readonly AdapterShape[]
  /** The adapters as one server gets them. */
  readonly adapters: (server: string) => AdapterSource
  /** The state of training, for servers that may lead one day. */
  readonly copy: () => StateCopy
}

/** Returns how links to workers are made. */
function linker (components: LinkerComponents): (server: KnownServer, span: Span) => WorkerLink {
  const { context, runtime: { device }, shapes, adapters, copy } = components
  const { charter, charterHash, identity } = context
  return ({ peerId }, span) => new WorkerLink({
    peer: peerId.toString(),
    span,
    open: async (signal) => await openChannel(await context.dial(peerId, STAGE_PROTOCOL, signal), {
      protocol: STAGE_PROTOCOL,
      outgoing: stageMessages.CoordinatorMessageSchema,
      incoming: stageMessages.WorkerMessageSchema,
      limits: stageLimits(charter, shapes),
      identity,
      remotePeer: peerId,
      charter: charterHash,
      // Between rounds nothing is said for as long as nobody trains. Each question has a limit of its own.
      idleTimeoutMs: Infinity
    }, signal),
    adapters: adapters(peerId.toString()),
    copy: () => context.isEntrusted?.(peerId.toString()) === true ? copy() : undefined,
    device,
    format: { wire: charter.wire, hidden: charter.model.hidden },
    shapes: shapesOf(charter, [span]),
    timeoutMs: idleTimeoutOf(charter),
    announcedSpeed: () => {
      const speed = context.servers().find((server) => server.peerId.equals(peerId))?.load?.prefillTokensPerSecond ?? 0
      return speed > 0 ? speed * (span.end - span.first) : undefined
    }
  })
}

/** The committed adapters, as a worker gets them. */
function adapterSource (strategy: AggregationStrategy, state: { readonly round: number }, server: string): AdapterSource {
  return {
    get round () { return state.round },
    of: async ({ first, end }) => {
      const { round, names, tensors } = await (strategy.committedFor?.(server) ?? strategy.committed())
      const own = names.flatMap((name, index) => {
        const block = blockOf(name)
        return first <= block && block < end ? [{ name, value: tensors[index] as Tensor }] : []
      })
      return { round, names: own.map(({ name }) => name), tensors: own.map(({ value }) => value) }
    }
  }
}

function hex (bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
