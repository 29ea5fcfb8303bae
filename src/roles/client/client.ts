import { join } from 'node:path'
import { Speculation } from '../../model/generation/speculation/speculation.ts'
import { Optimizer } from '../../model/training/optimizer.ts'
import { clientSpans, shapesOf } from '../charter-settings.ts'
import type { RoleComponents } from '../components.ts'
import type { ClientContext } from '../context.ts'
import { AdapterSync } from './adapter-sync.ts'
import { LearntMap } from './generation/learnt-map.ts'
import { SequencePool } from './generation/sequence-pool.ts'
import type { TextSequence } from './generation/text-sequence.ts'
import { LedgerFile } from './ledger-file.ts'
import { LeftOutServers } from './left-out.ts'
import { ReleaseLedger } from './release-ledger.ts'
import { ReleaseSecret } from './release-secret.ts'
import { openClientRuntime, type ClientRuntime } from './runtime.ts'
import { generationStages, replayOptions } from './server-route.ts'
import { ClientSessions } from './sessions.ts'
import { AdapterState } from './training/adapter-state.ts'
import { progressPath, readProgress } from './training/progress.ts'
import { TrainingLock } from './training/training-lock.ts'
import { WithheldGate } from './training/withheld-gate.ts'
import { CaughtServers } from './verification/caught-servers.ts'
import { Verifier } from './verification/verifier.ts'

/** Sessions of a client on a server that are not for a text: training, or the fetching of adapters. */
const OTHER_SESSIONS = 1

/** What a client keeps when it changes its partition. */
export interface LastingParts {
  readonly lock: TrainingLock
  readonly leftOut: LeftOutServers
  readonly caught: CaughtServers
  readonly speculation: Speculation
}

/** The parts of a client with one partition. An operation takes those that it needs. */
export interface Client {
  readonly context: ClientContext
  readonly runtime: ClientRuntime
  readonly sessions: ClientSessions
  readonly leftOut: LeftOutServers
  readonly caught: CaughtServers
  readonly verifier: Verifier
  readonly speculation: Speculation
  readonly learntMap: LearntMap
  readonly sequences: SequencePool<TextSequence>
  readonly adapters: AdapterSync
  readonly state: AdapterState
  readonly gate: WithheldGate
  readonly secret: ReleaseSecret
  readonly ledger: ReleaseLedger
  readonly lock: TrainingLock
  /** Whether the newest training progress was damaged or missing, so that an older one is used. */
  readonly fellBack: boolean
}

/**
 * Opens a client's parts, from what its home keeps and from those of the client before it, if there was one. The caller closes them with
 * `closeClient`.
 */
export async function openClient (context: ClientContext, components: RoleComponents, before?: LastingParts): Promise<Client> {
  const { charter, charterHash, client: { partition }, paths, settings, logger } = context
  const path = progressPath(paths.state)
  const saved = await readProgress(path, Buffer.from(charterHash).toString('hex'), charter, partition)
  const fellBack = saved?.fellBack ?? false
  if (fellBack) logger.warn({ round: saved?.meta.round }, 'the newest training progress is damaged or missing: the one before it is used')
  const secret = await ReleaseSecret.open(join(paths.state, 'noise.key'), charterHash)
  const runtime = await openClientRuntime({ charter, partition, modelPath: paths.model, role: settings }, components)
  try {
    const { device, parameters } = runtime
    const optimizer = await Optimizer.open(device, charter.training.optimizer)
    const shapes = shapesOf(charter, clientSpans(charter, partition))
    const state = await AdapterState.open({ device, optimizer, parameters, shapes, path }, saved)
    const gate = await WithheldGate.open({
      device,
      optimizer,
      hidden: charter.model.hidden,
      path: join(paths.state, 'withholding.safetensors'),
      federation: Buffer.from(charterHash).toString('hex')
    })
    const ledger = await ReleaseLedger.open(new LedgerFile(join(paths.state, 'releases.ledger')), charter.model.hidden)
    const sessions = new ClientSessions(context)
    const lock = before?.lock ?? new TrainingLock()
    const adapters = new AdapterSync({ context, sessions, parameters, state, lock, shapes })
    const leftOut = before?.leftOut ?? new LeftOutServers(context)
    const caught = before?.caught ?? await CaughtServers.open(join(paths.state, 'caught-servers.json'), logger)
    const isComparable = charter.averageEvery === undefined
    if (context.verify > 0 && !isComparable) logger.warn({}, 'servers are not checked: they have adapters of their own between two averages')
    const verifier = new Verifier({
      directory: context,
      leftOut,
      caught,
      logger,
      wire: charter.wire,
      share: isComparable ? context.verify : 0,
      isComparable,
      stageOn: generationStages({ context, sessions, adapters }, true),
      ...replayOptions(runtime.model)
    })
    const speculation = before?.speculation ?? new Speculation()
    const learntMap = new LearntMap({
      device,
      hidden: runtime.model.hiddenSize,
      path: join(paths.state, 'middle-map.safetensors'),
      key: JSON.stringify([Buffer.from(charterHash).toString('hex'), partition.inputBlocks, partition.outputBlocks]),
      logger
    })
    const sequences = new SequencePool<TextSequence>({
      maxOpen: Math.max(1, charter.limits.maxSessionsPerClient - OTHER_SESSIONS),
      onError: (error) => { logger.debug({ err: error }, 'a sequence that was kept did not close') }
    })
    const generation = { speculation, learntMap, sequences }
    return { context, runtime, sessions, leftOut, caught, verifier, ...generation, adapters, state, gate, secret, ledger, lock, fellBack }
  } catch (error) {
    await runtime.close()
    throw error
  }
}

/** Ends the checks of servers that a client makes, closes its sequences and its ledger, and frees its device. */
export async function closeClient ({ verifier, learntMap, sequences, ledger, runtime }: Client): Promise<void> {
  await verifier.stop()
  await sequences.clear()
  await learntMap.close()
  await ledger.close()
  await runtime.close()
}
