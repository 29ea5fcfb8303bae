import { join } from 'node:path'
import { MAX_STAGE_STREAMS, STAGE_PROTOCOL } from '../../../protocols/stage/constants.ts'
import * as stageMessages from '../../../protocols/stage/messages.ts'
import { ChannelResetError } from '../../../protocols/wire/errors.ts'
import { shapesOf } from '../../charter-settings.ts'
import { maxStateBytes, stageLimits } from '../../message-limits.ts'
import type { TrainingPartComponents } from './coordination.ts'
import type { TrainingPart } from './part.ts'
import { NotCoordinatorError, StageSession } from './stage-session.ts'
import { Standby } from './standby.ts'
import { STANDBY_FILE } from './state-files.ts'
import { WorkerAdapters } from './worker-adapters.ts'

/** The coordinator's stream, while it is served. */
interface Serving {
  readonly channel: stageMessages.StageWorkerChannel
  readonly session: StageSession
  readonly ended: Promise<void>
}

/** Computes this server's blocks for the coordinator, and for nobody else. Nothing of it is kept over a restart. */
export async function startWork ({ context, runtime, sessions }: TrainingPartComponents): Promise<TrainingPart> {
  const { charter, coordinator, span } = context
  const { device, model, weights, blocks, stage } = runtime
  const adapters = new WorkerAdapters(weights, shapesOf(charter, [span]))
  const standby = new Standby({
    path: join(context.paths.state, STANDBY_FILE),
    logger: context.logger,
    federation: Buffer.from(context.charterHash).toString('hex'),
    maxBytes: maxStateBytes(charter, shapesOf(charter, [{ first: 0, end: model.layers }]))
  })
  let current: Serving | undefined
  await sessions.serve(STAGE_PROTOCOL, {
    outgoing: stageMessages.WorkerMessageSchema,
    incoming: stageMessages.CoordinatorMessageSchema,
    limits: stageLimits(charter, shapesOf(charter, [{ first: 0, end: model.layers }])),
    maxStreams: MAX_STAGE_STREAMS,
    // The coordinator may have nothing to say for hours. A connection that is dead is noticed by its own means.
    idleTimeoutMs: Infinity
  }, async (channel, signal) => {
    if (!channel.remotePeer.equals(coordinator)) throw new NotCoordinatorError()
    const { promise: ended, resolve } = Promise.withResolvers<void>()
    const before = current
    const session = new StageSession(channel, { charter, model, device, stage, adapters, standby })
    current = { channel, session, ended }
    try {
      // The coordinator has lost its other stream. What that one is in the middle of ends first: both would change the same adapters.
      before?.channel.abort(new ChannelResetError())
      await before?.ended
      await session.run(signal)
    } finally {
      resolve()
    }
  })
  return {
    adapters,
    status: () => ({
      round: adapters.round ?? 0,
      members: [],
      training: { round: adapters.round ?? 0, residuals: [blocks.residuals.report] }
    }),
    ready: async (round, signal) => { await adapters.reached(round, signal) },
    get isIdle () { return current === undefined || current.session.isIdle },
    removed: () => {},
    operations: {},
    ended: async () => {}
  }
}
