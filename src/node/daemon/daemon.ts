import { peerIdFromString } from '@libp2p/peer-id'
import type { ResultOf } from '../../api/operations.ts'
import { MidspanError, UsageError } from '../../errors.ts'
import { chooseDevice } from '../../model/runtime/device-choice.ts'
import type { PeerStatus } from '../../protocols/status/status.ts'
import { servableSpan } from '../../roles/charter-settings.ts'
import type { RoleContext, ServerDirectory } from '../../roles/context.ts'
import { startControlServer } from '../control/server.ts'
import { resolveClientSettings } from '../federation/join.ts'
import { readMembership, readServers, type Membership } from '../federation/membership.ts'
import { homeAt, type Home } from '../home/home.ts'
import { lockHome } from '../home/lock.ts'
import { checkHome } from '../home/open-to-others.ts'
import { loadSettings, type Settings } from '../home/settings.ts'
import { Gate } from '../network/gate.ts'
import { createMidspanNode, startNode, type MidspanNode } from '../network/libp2p.ts'
import { ServerLinks } from '../network/server-links.ts'
import { checkAnnounced } from '../network/transports.ts'
import { AGENT } from '../process/version.ts'
import { openLog } from './logging.ts'
import { operationsOf } from './operations.ts'
import { blockSpan } from './peer-status.ts'
import { roles as defaultRoles, type Roles } from './roles.ts'
import { offerServerServices } from './server-services.ts'

/** What `midspan status` shows. */
export type DaemonStatus = ResultOf<'status'>

export interface Daemon {
  readonly node: MidspanNode
  status (): DaemonStatus
  /** Resolves when the daemon has stopped, by `stop` or because it left its federation. */
  readonly stopped: Promise<void>
  stop (): Promise<void>
}

export interface DaemonOptions {
  /** Gives up starting. A daemon that is ready is stopped with `stop`. */
  readonly signal?: AbortSignal
  /** What the peer does besides being a member. */
  readonly roles?: Roles
}

const DEFAULT_SERVER_LISTEN = ['/ip4/0.0.0.0/tcp/4001']

/**
 * Runs the peer whose home is at `root`. Resolves when it is ready: a server listens, a client has tried its servers once.
 * Throws NoFederationError, HomeLockedError, UsageError, and the errors of the charter, the model and the device.
 */
export async function startDaemon (
  root: string,
  given: Readonly<Record<string, unknown>>,
  { signal, roles = defaultRoles }: DaemonOptions = {}
): Promise<Daemon> {
  const home = homeAt(root)
  await checkHome(home)
  const membership = await readMembership(home)
  const settings = await loadSettings(home, given)
  const lock = await lockHome(home)
  const cleanups: Array<() => Promise<void> | void> = [() => { lock.release() }]
  try {
    return await assemble({ home, membership, settings, roles, cleanups }, signal)
  } catch (error) {
    await unwind(cleanups).catch(() => {}) // what kept the daemon from starting says more
    throw error
  }
}

interface Parts {
  readonly home: Home
  readonly membership: Membership
  readonly settings: Settings
  readonly roles: Roles
  /** What undoes the steps so far, in the order of the steps. */
  readonly cleanups: Array<() => Promise<void> | void>
}

async function assemble (parts: Parts, signal: AbortSignal | undefined): Promise<Daemon> {
  const { home, membership, settings, roles, cleanups } = parts
  const { key, peerId, signed } = membership
  const { charter } = signed
  if (settings.role === undefined)
    throw new UsageError(`${home.config} does not say what this peer is`, 'restore it, or add `role: server` or `role: client`')
  const isServer = settings.role === 'server'
  const logger = openLog(home.log, settings.logLevel)
  const listen = settings.listen ?? (isServer ? DEFAULT_SERVER_LISTEN : [])
  const since = new Date()
  const choice = await chooseDevice(settings.device, signal)
  logger.info({ device: choice.kind, reason: choice.reason }, 'device chosen')

  for (const address of settings.announce) checkAnnounced(address, peerId.toString())
  const node = await createMidspanNode({
    privateKey: key,
    role: isServer ? 'server' : 'client',
    listen,
    announce: settings.announce,
    maxConnections: settings.maxConnections
  })
  cleanups.push(async () => {
    await node.stop()
  })
  const gate = new Gate(node, logger)
  const context: RoleContext = {
    identity: key,
    peerId,
    charter,
    charterHash: signed.hash,
    paths: { state: home.state, model: isServer ? modelOf(settings) : home.model, adapter: home.adapter },
    settings: {
      device: choice.kind,
      threads: settings.threads,
      compute: settings.compute,
      weights: settings.weights,
      residuals: settings.residuals,
      residualBytes: settings.residualBytes
    },
    logger,
    dial: async (peer, protocol, signal) => {
      if (!gate.isGreeted(peer)) links.dialNow()
      return await gate.dial(peer, protocol, signal)
    },
    handle: async (protocol, handler, options) => { await gate.handle(protocol, handler, options) },
    unhandle: async (protocol) => { await gate.unhandle(protocol) },
    onDisconnect: (listener) => gate.onDisconnect(listener)
  }
  const links = new ServerLinks({
    node,
    gate,
    logger,
    charterHash: signed.hash,
    servers: isServer ? [] : await readServers(home),
    coordinator: charter.founder
  })
  const client = isServer ? undefined : resolveClientSettings(charter, settings)

  signal?.throwIfAborted()
  const directory: ServerDirectory = {
    servers: () => links.servers(),
    onServersChanged: (listener) => links.onServersChanged(listener)
  }
  const role = client === undefined
    ? await roles.server({ ...context, ...directory, span: servableSpan(charter), coordinator: peerIdFromString(charter.founder) })
    : await roles.client({ ...context, ...directory, client })
  cleanups.push(async () => {
    await role.stop()
  })
  signal?.throwIfAborted()
  const peerStatus = (): PeerStatus => {
    const { blocks = [], device = choice.kind, sessions = [], round = 0, members = [] } = role.status()
    return {
      agent: AGENT,
      role: 'server',
      device,
      blocks,
      sessions: sessions.length,
      round,
      members,
      uptimeMs: Date.now() - since.getTime()
    }
  }
  const services = isServer
    ? await offerServerServices({
      home, node, gate, logger, membership, settings, model: context.paths.model, status: peerStatus,
      removed: (peer) => { role.removed?.(peer) }
    })
    : undefined
  const unused = await startNode(node, listen)
  if (unused.length > 0) logger.warn({ addresses: unused }, 'cannot listen on some addresses, and listens on the others')
  cleanups.push(async () => { await links.stop() })
  await links.start()

  const { promise: stopped, resolve } = Promise.withResolvers<void>()
  let stopping: Promise<void> | undefined
  const stop = async (): Promise<void> => {
    stopping ??= unwind(cleanups).finally(resolve)
    await stopping
  }
  const status = (): DaemonStatus => {
    const { blocks, device = choice.kind, training = null, generation = null } = role.status()
    const failure = links.failure()
    return {
      agent: AGENT,
      peerId: peerId.toString(),
      role: isServer ? 'server' : 'client',
      home: home.root,
      federation: { id: signed.id, name: charter.name },
      addresses: node.getMultiaddrs().map(String),
      listening: node.services.transports.getAddrs().map((address) => `${address.toString()}/p2p/${peerId.toString()}`),
      device,
      deviceReason: settings.compute === 'fp32' ? choice.reason : `${choice.reason}; products with weights in ${settings.compute}`,
      blocks: isServer ? blockSpan(blocks) : null,
      partition: client?.partition ?? null,
      connected: isServer ? node.getMultiaddrs().length > 0 : links.servers().some(({ connected }) => connected),
      disconnectedReason: failure === undefined ? null : `${failure.message}${failure.next === undefined ? '' : ` (${failure.next})`}`,
      members: services?.members() ?? null,
      training,
      generation,
      since: since.toISOString()
    }
  }
  const control = await startControlServer(
    home,
    operationsOf({ home, membership, services, node, gate, links, role, status, stop }),
    logger
  )
  cleanups.push(async () => {
    await control.stop()
  })
  logger.info({ peer: peerId.toString(), federation: signed.id, role: settings.role }, 'ready')
  return { node, status, stopped, stop }
}

/** Undoes steps, the last first; one that fails does not keep the others from being undone. */
async function unwind (cleanups: Array<() => Promise<void> | void>): Promise<void> {
  const failures: unknown[] = []
  for (let undo = cleanups.pop(); undo !== undefined; undo = cleanups.pop()) {
    try {
      await undo()
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0)
    throw new MidspanError('E_STOP', 'the daemon did not stop cleanly', {
      cause: failures.length === 1 ? failures[0] : new AggregateError(failures)
    })
}

function modelOf ({ model }: Settings): string {
  if (model === undefined) throw new UsageError('the home does not say where the server\'s model is', 'add `model: DIR` to its config.yaml')
  return model
}
