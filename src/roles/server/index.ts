import { setTimeout as delay } from 'node:timers/promises'
import type { GenerationStatus } from '../../api/status.ts'
import { CachedSpan } from '../../model/generation/cached-span.ts'
import { GENERATE_PROTOCOL } from '../../protocols/generate/constants.ts'
import { HANDOVER_PROTOCOL } from '../../protocols/handover/constants.ts'
import { deviceLine } from '../charter-settings.ts'
import { roleComponents, type RoleComponents } from '../components.ts'
import type { RunningRole, ServerContext } from '../context.ts'
import { idleTimeoutOf } from '../message-limits.ts'
import { GenerationEngine } from './generation/engine.ts'
import { Handovers } from './generation/handovers.ts'
import { serveSequences } from './generation/serving.ts'
import { isCoordinator, openServerRuntime } from './runtime.ts'
import { Sessions, StoppingError } from './sessions.ts'
import { startCoordination } from './training/coordination.ts'
import { startWork } from './training/work.ts'

/** How often a server that is to become idle looks whether it is. */
const IDLE_LOOK_MS = 50

/** Serves blocks of a federation's model: training rounds and generation, for all of its clients. One server leads the rounds. */
export async function startServerRole (context: ServerContext, parts: RoleComponents = roleComponents): Promise<RunningRole> {
  const { charter, span, settings: { weights: format, device: kind, compute } } = context
  let engine: GenerationEngine | undefined
  const runtime = await openServerRuntime(context, parts, () => engine?.isActive === true)
  const { device, model, weights, boundary, turns } = runtime
  const stopping = new AbortController()
  const sessions = new Sessions(context, stopping.signal)
  try {
    const components = { context, runtime, sessions, signal: stopping.signal }
    const training = await (isCoordinator(context) ? startCoordination(components) : startWork(components))
    const { cacheBytes } = charter.limits
    const arithmetic = { weights: format, device: kind, compute }
    const texts = engine = new GenerationEngine({ device, model, blocks: new CachedSpan(weights), boundary, cacheBytes, span, turns })
    await serveSequences(sessions, {
      charter,
      model,
      engine: texts,
      span,
      arithmetic,
      handovers: new Handovers(context),
      adapters: training.adapters,
      idleTimeoutMs: idleTimeoutOf(charter),
      weightOf: (peer) => context.weightOf(peer),
      ready: async (round, ended) => { await training.ready(round, ended) }
    })

    let deviceBytes = (await device.memory()).heldBytes
    const generation = (): GenerationStatus => {
      void device.memory().then(({ heldBytes }) => { deviceBytes = heldBytes }) // the device answers for the next time
      const { caches, metrics } = texts
      return {
        sequences: caches.sequences,
        cacheBytes: caches.heldBytes,
        cacheLimitBytes: cacheBytes,
        evictions: caches.evictions,
        serving: metrics.status,
        memory: {
          processBytes: process.memoryUsage.rss(),
          deviceBytes,
          cacheBytes: caches.allocatedBytes
        }
      }
    }
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
        generation: generation()
      }),
      // A sequence that another server hands over has a session of its client's here, too.
      load: () => ({ sessions: sessions.list().filter(({ kind }) => kind !== 'handover').length, ...texts.load }),
      removed: (peer) => { training.removed(peer) },
      drain: () => {
        sessions.refuse([GENERATE_PROTOCOL, HANDOVER_PROTOCOL])
        return {
          idle: async (signal) => {
            while (texts.caches.sequences > 0 || !training.isIdle) await delay(IDLE_LOOK_MS, undefined, { signal })
          },
          end: () => { sessions.refuse([]) }
        }
      },
      operations: training.operations,
      stop: async () => { await (stopped ??= stop()) }
    }
  } catch (error) {
    stopping.abort(error)
    await device.close()
    throw error
  }
}
