import { join } from 'node:path'
import { Optimizer } from '../../model/training/optimizer.ts'
import { clientSpans, shapesOf } from '../charter-settings.ts'
import type { ClientContext } from '../context.ts'
import { AdapterSync } from './adapter-sync.ts'
import { LeftOutServers } from './left-out.ts'
import { ReleaseSecret } from './release-secret.ts'
import { openClientRuntime, type ClientRuntime } from './runtime.ts'
import { ClientSessions } from './sessions.ts'
import { AdapterState } from './training/adapter-state.ts'
import { progressPath, readProgress } from './training/progress.ts'
import { TrainingLock } from './training/training-lock.ts'

/** What a client keeps when it changes its partition. */
export interface LastingParts {
  readonly lock: TrainingLock
  readonly leftOut: LeftOutServers
}

/** The parts of a client with one partition. An operation takes those that it needs. */
export interface Client {
  readonly context: ClientContext
  readonly runtime: ClientRuntime
  readonly sessions: ClientSessions
  readonly leftOut: LeftOutServers
  readonly adapters: AdapterSync
  readonly state: AdapterState
  readonly secret: ReleaseSecret
  readonly lock: TrainingLock
  /** Whether the newest training progress was damaged or missing, so that an older one is used. */
  readonly fellBack: boolean
}

/**
 * Opens a client's parts, from what its home keeps and from those of the client before it, if there was one. The caller closes its
 * runtime.
 */
export async function openClient (
  context: ClientContext,
  { lock, leftOut }: LastingParts = { lock: new TrainingLock(), leftOut: new LeftOutServers(context) }
): Promise<Client> {
  const { charter, charterHash, client: { partition }, paths, settings, logger } = context
  const path = progressPath(paths.state)
  const saved = await readProgress(path, Buffer.from(charterHash).toString('hex'), charter, partition)
  const fellBack = saved?.fellBack ?? false
  if (fellBack) logger.warn({ round: saved?.meta.round }, 'the newest training progress is damaged or missing: the one before it is used')
  const secret = await ReleaseSecret.open(join(paths.state, 'noise.key'), charterHash)
  const runtime = await openClientRuntime({ charter, partition, modelPath: paths.model, role: settings })
  try {
    const { device, parameters } = runtime
    const optimizer = await Optimizer.open(device, charter.training.optimizer)
    const shapes = shapesOf(charter, clientSpans(charter, partition))
    const state = await AdapterState.open({ device, optimizer, parameters, shapes, path }, saved)
    const sessions = new ClientSessions(context)
    const adapters = new AdapterSync({ context, sessions, parameters, state, lock, shapes })
    return { context, runtime, sessions, leftOut, adapters, state, secret, lock, fellBack }
  } catch (error) {
    await runtime.close()
    throw error
  }
}
