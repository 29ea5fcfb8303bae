import { CachedSpan } from '../../model/generation/cached-span.ts'
import { deviceLine } from '../charter-settings.ts'
import type { RunningRole, ServerContext } from '../context.ts'
import { idleTimeoutOf } from '../message-limits.ts'
import { GenerationEngine } from './generation/engine.ts'
import { Handovers } from './generation/handovers.ts'
import { serveSequences } from './generation/serving.ts'
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
    await serveSequences(sessions, {
      charter,
      model,
      engine,
      span,
      arithmetic,
      handovers: new Handovers(context),
      adapters: training.adapters,
      idleTimeoutMs: idleTimeoutOf(charter),
      ready: async (round, ended) => { await training.ready(round, ended) }
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
