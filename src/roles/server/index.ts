import { CachedSpan } from '../../model/generation/cached-span.ts'
import { MAX_GENERATE_STREAMS, GENERATE_PROTOCOL } from '../../protocols/generate/constants.ts'
import * as generate from '../../protocols/generate/messages.ts'
import { HANDOVER_PROTOCOL, MAX_HANDOVER_STREAMS } from '../../protocols/handover/constants.ts'
import * as handover from '../../protocols/handover/messages.ts'
import { deviceLine } from '../charter-settings.ts'
import type { RunningRole, ServerContext } from '../context.ts'
import { generateLimits, handoverLimits, idleTimeoutOf } from '../message-limits.ts'
import { GenerationEngine } from './generation/engine.ts'
import { Handovers } from './generation/handovers.ts'
import { serveGeneration } from './generation/session.ts'
import { isCoordinator, openServerRuntime } from './runtime.ts'
import { Sessions, StoppingError } from './sessions.ts'
import { startCoordination } from './training/coordination.ts'
import { startWork } from './training/work.ts'

/** Serves blocks of a federation's model: training rounds and generation, for all of its clients. One server leads the rounds. */
export async function startServerRole (context: ServerContext): Promise<RunningRole> {
  const { charter, span, settings: { weights: format, device: kind, compute } } = context
  const runtime = await openServerRuntime(context)
  const { device, model, weights, boundary } = runtime
  const stopping = new AbortController()
  const sessions = new Sessions(context, stopping.signal)
  try {
    const components = { context, runtime, sessions, signal: stopping.signal }
    const training = await (isCoordinator(context) ? startCoordination(components) : startWork(components))
    const { cacheBytes } = charter.limits
    const arithmetic = { weights: format, device: kind, compute }
    const engine = new GenerationEngine({ device, model, blocks: new CachedSpan(weights), boundary, cacheBytes, span })
    const handovers = new Handovers(context)
    const generation = {
      charter,
      model,
      engine,
      span,
      handovers,
      arithmetic,
      adapters: training.adapters,
      idleTimeoutMs: idleTimeoutOf(charter),
      ready: async (round: number, ended: AbortSignal): Promise<void> => { await training.ready(round, ended) }
    }
    await sessions.serve(HANDOVER_PROTOCOL, {
      outgoing: handover.TakerMessageSchema,
      incoming: handover.GiverMessageSchema,
      limits: handoverLimits(charter),
      maxStreams: MAX_HANDOVER_STREAMS,
      maxSessions: MAX_HANDOVER_STREAMS,
      idleTimeoutMs: Infinity // the session that is claimed has a limit of its own
    }, async (channel, signal) => { await handovers.serve(channel, signal) })
    await sessions.serve(GENERATE_PROTOCOL, {
      outgoing: generate.ServerMessageSchema,
      incoming: generate.ClientMessageSchema,
      limits: generateLimits(charter),
      maxStreams: MAX_GENERATE_STREAMS,
      idleTimeoutMs: Infinity // a client whose servers hand over is silent: what counts is when hidden states come
    }, async (channel, signal) => {
      await serveGeneration(channel, generation, signal)
    })

    let stopped: Promise<void> | undefined
    const stop = async (): Promise<void> => {
      stopping.abort(new StoppingError())
      await Promise.all([training.ended(), sessions.ended()])
      await device.close()
    }
    return {
      status: () => ({
        blocks: [[span.first, span.end]],
        device: deviceLine(context.settings),
        sessions: sessions.list(),
        ...training.status(),
        generation: {
          sequences: engine.caches.sequences,
          cacheBytes: engine.caches.heldBytes,
          cacheLimitBytes: cacheBytes,
          evictions: engine.caches.evictions
        }
      }),
      // A sequence that another server hands over has a session of its client's here, too.
      load: () => ({ sessions: sessions.list().filter(({ kind }) => kind !== 'handover').length, ...engine.load }),
      removed: (peer) => { training.removed(peer) },
      operations: training.operations,
      stop: async () => { await (stopped ??= stop()) }
    }
  } catch (error) {
    stopping.abort(error)
    await device.close()
    throw error
  }
}
