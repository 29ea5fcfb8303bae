import { join } from 'node:path'
import { peerIdFromString } from '@libp2p/peer-id'
import { MidspanError, UsageError } from '../../errors.ts'
import { WEIGHTS_FILE } from '../../model/checkpoint/store.ts'
import { chooseDevice } from '../../model/runtime/device-choice.ts'
import { PROTOCOL_VERSIONS, type ClientSettings } from '../../protocols/charter/index.ts'
import type { PeerStatus } from '../../protocols/status/status.ts'
import { servableSpan } from '../../roles/charter-settings.ts'
import type { RoleContext, ServerDirectory } from '../../roles/context.ts'
import { blocksText, type Span } from '../../span.ts'
import { startControlServer } from '../control/server.ts'
import { resolveClientSettings } from '../federation/join.ts'
import { readMandates, readMembership, type Membership } from '../federation/membership.ts'
import { completeMove, type MoveRecord } from '../federation/move.ts'
import { tensorsOfSpan } from '../federation/servable-weights.ts'
import { spanOfSettings } from '../federation/served-span.ts'
import { homeAt, type Home } from '../home/home.ts'
import { lockHome } from '../home/lock.ts'
import { checkHome } from '../home/open-to-others.ts'
import { loadSettings, type Settings } from '../home/settings.ts'
import { parseHttpAddress } from '../http/address.ts'
import type { HttpServer } from '../http/server.ts'
import { Gate } from '../network/gate.ts'
import { chooseInviteAddresses } from '../network/invite-addresses.ts'
import { createMidspanNode, startNode, type MidspanNode } from '../network/libp2p.ts'
import { RoundTrips } from '../network/round-trips.ts'
import { ServerLinks } from '../network/server-links.ts'
import { checkAnnounced } from '../network/transports.ts'
import { AGENT } from '../process/version.ts'
import { Leadership } from '../succession/leadership.ts'
import { readKnownBefore, signOwnAddresses } from '../succession/take-over.ts'
import type { Announced } from './announcer.ts'
import { daemonStatus, serverStatus, type DaemonStatus } from './daemon-status.ts'
import { DirectoryFollower } from './directory-follower.ts'
import { FounderDirectory } from './founder-directory.ts'
import { offerFounderServices } from './founder-services.ts'
import { KnownServers } from './known-servers.ts'
import { LinkedServers, MAX_LINKED_WORKERS } from './linked-servers.ts'
import { openLog } from './logging.ts'
import { MovePlanner } from './move-planner.ts'
import { moverOf } from './moving.ts'
import { operationsOf } from './operations.ts'
import { roles as defaultRoles, type Roles } from './roles.ts'
import { Startup } from './starting.ts'
import { offerWorkerServices } from './worker-services.ts'

export interface Daemon {
  readonly node: MidspanNode
  status (): DaemonStatus
  /** Resolves when the daemon has stopped, by `stop` or because it left its federation. */
  readonly stopped: Promise<void>
  /** Whether it stops because another server leads from now on: started again, it follows that one. */
  readonly isSuperseded: boolean
  /** Whether it stops because it is to serve other blocks: started again, it serves them. */
  readonly hasMoved: boolean
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
  const lock = await lockHome(home)
  const cleanups: Array<() => Promise<void> | void> = [() => { lock.release() }]
  try {
    const lastMove = await completeMove(home, membership.signed.charter)
    const settings = await loadSettings(home, given)
    return await assemble({ home, membership, settings, lastMove, roles, cleanups }, signal)
  } catch (error) {
    await unwind(cleanups).catch(() => {}) // what kept the daemon from starting says more
    throw error
  }
}

interface Parts {
  readonly home: Home
  readonly membership: Membership
  readonly settings: Settings
  readonly lastMove: MoveRecord | undefined
  readonly roles: Roles
  /** What undoes the steps so far, in the order of the steps. */
  readonly cleanups: Array<() => Promise<void> | void>
}

async function assemble (parts: Parts, signal: AbortSignal | undefined): Promise<Daemon> {
  const { home, membership, settings, lastMove, roles, cleanups } = parts
  const { key, peerId, signed, lead } = membership
  const { charter } = signed
  if (settings.role === undefined)
    throw new UsageError(`${home.config} does not say what this peer is`, 'restore it, or add `role: server` or `role: client`')
  const isServer = settings.role === 'server'
  const httpAddress = settings.http === undefined ? undefined : parseHttpAddress(settings.http)
  if (isServer && httpAddress !== undefined)
    throw new UsageError('a server does not serve HTTP: it has neither text nor the ends of the model', 'leave --http out, and give it to a client')
  const isFounder = isServer && peerId.toString() === charter.founder
  const leads = isServer && peerId.toString() === lead.peer
  const span = isServer ? spanOfSettings(charter, settings.blocks, isFounder) : undefined
  const coordinator = peerIdFromString(lead.peer)
  const paths = { state: home.state, runs: home.runs, ...modelPaths(home, settings, isFounder) }
  const logger = openLog(home.log, settings.logLevel)
  const listen = settings.listen ?? (isServer ? DEFAULT_SERVER_LISTEN : [])
  const since = new Date()
  const sinceMs = performance.now()
  const self = {
    agent: AGENT,
    peerId: peerId.toString(),
    role: settings.role,
    home: home.root,
    federation: { id: signed.id, name: charter.name },
    coordinator: lead.peer
  }
  const startup = new Startup({ ...self, device: settings.device }, 'choosing the device')
  const control = await startControlServer(home, startup.operations, logger)
  cleanups.push(async () => { await control.stop() })
  const choice = await chooseDevice(settings.device, settings.compute, signal)
  logger.info({ device: choice.kind, reason: choice.reason }, 'device chosen')

  for (const address of settings.announce) checkAnnounced(address, peerId.toString())
  const node = await createMidspanNode({
    privateKey: key,
    role: settings.role,
    listen,
    announce: settings.announce,
    maxConnections: settings.maxConnections
  })
  cleanups.push(async () => {
    await node.stop()
  })
  const gate = new Gate(node, logger)
  const scope = { federation: signed.id, middle: servableSpan(charter) }
  const announced = (): Announced => ({
    federation: signed.id,
    span: span as Span,
    addresses: chooseInviteAddresses(node.getMultiaddrs()).addresses.map(String),
    agent: AGENT,
    protocols: PROTOCOL_VERSIONS,
    load: role.load?.(),
    placement: mover?.placement
  })
  const { promise: stopped, resolve } = Promise.withResolvers<void>()
  let stopping: Promise<void> | undefined
  const stop = async (): Promise<void> => {
    stopping ??= unwind(cleanups).finally(resolve)
    await stopping
  }
  let isReady = false
  let isSuperseded = false
  let hasMoved = false
  const leadership = new Leadership({
    path: home.lead,
    scope: { federation: signed.id, founder: charter.founder },
    lead,
    logger,
    onChanged: () => {
      isSuperseded = true
      if (isReady) setImmediate(() => { stop().catch(() => {}) })
    }
  })
  const follower = leads ? undefined : await DirectoryFollower.open({
    home, gate, logger, membership, scope,
    announced: isServer ? announced : undefined,
    onServersChanged: () => {
      linked.update()
      known.changed()
    },
    onCertificate: () => { links.dialNow() },
    onRevoked: (peers) => { worker?.revoke(peers) },
    onMove: (move) => { mover?.asked(move) }
  })
  // A server that took over tells the servers that it knew, who may hear of it from nobody else.
  const before = leads && lead.term > 0
    ? await readKnownBefore(home, peerId.toString(), MAX_LINKED_WORKERS)
    : { servers: [], certificate: undefined }
  const links = new ServerLinks({
    node,
    gate,
    logger,
    role: settings.role,
    charterHash: signed.hash,
    certificate: () => follower?.certificate() ?? before.certificate,
    lead: () => leadership.lead.bytes,
    heard: (heard) => { leadership.hear(heard) },
    servers: follower?.joined() ?? before.servers
  })
  const linked = new LinkedServers({ follower, links, isServer, self: peerId.toString() })
  const roundTrips = new RoundTrips(node, gate)
  const mandates = leads ? await readMandates(home) : new Map<string, Uint8Array>()
  let directory: FounderDirectory | undefined
  const known = new KnownServers({
    gate,
    self: peerId,
    coordinator,
    announcements: () => (directory ?? follower)?.announcements() ?? [],
    roundTripMs: (peer) => roundTrips.ofServer(peer)
  })
  const context: RoleContext & ServerDirectory = {
    identity: key,
    peerId,
    charter,
    charterHash: signed.hash,
    paths,
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
      if (!gate.isGreeted(peer)) await linked.reach(peer.toString())
      return await gate.dial(peer, protocol, signal)
    },
    handle: async (protocol, handler, options) => { await gate.handle(protocol, handler, options) },
    onDisconnect: (listener) => gate.onDisconnect(listener),
    servers: () => known.servers(),
    onServersChanged: (listener) => known.onServersChanged(listener)
  }
  const client = isServer ? undefined : { settings: resolveClientSettings(charter, settings) }

  signal?.throwIfAborted()
  startup.begin(`loading ${span === undefined ? 'its own blocks' : blocksText([span])}`)
  const role = span === undefined || client !== undefined
    ? await roles.client({ ...context, client: (client as { settings: ClientSettings }).settings, verify: settings.verify })
    : await roles.server({
      ...context,
      span,
      coordinator,
      weightOf: (peer) => (services ?? worker)?.weightOf(peer) ?? 1,
      isEntrusted: (peer) => mandates.has(peer) || (!isFounder && peer === charter.founder)
    })
  cleanups.push(async () => {
    await role.stop()
  })
  const mover = span === undefined || leads || settings.memory === undefined ? undefined : moverOf({
    home, charter, self: peerId, coordinator, span, memoryBytes: settings.memory, weights: settings.weights, lastMove, logger, role,
    announcements: () => follower?.announcements() ?? [],
    dial: async (peer, protocol, inner) => await context.dial(peer, protocol, inner),
    announce: () => { follower?.announce() },
    startAgain: () => {
      hasMoved = true
      setImmediate(() => { stop().catch(() => {}) })
    }
  })
  cleanups.push(async () => { await mover?.stop() })
  signal?.throwIfAborted()
  const peerStatus = (): PeerStatus => serverStatus(role, choice.kind, sinceMs)
  const services = leads
    ? await offerFounderServices({
      home, node, gate, logger, membership, leadership, mandates, settings, model: paths.model, adapter: paths.adapter, status: peerStatus,
      held: isFounder || settings.model !== undefined || span === undefined ? undefined : new Set(tensorsOfSpan(charter, span)),
      removed: (peer) => {
        directory?.forget(peer)
        role.removed?.(peer)
      }
    })
    : undefined
  const worker = span === undefined || leads
    ? undefined
    : await offerWorkerServices({
      node, gate, logger, membership, leadership, span, ...paths, status: peerStatus, removed: (peer) => { role.removed?.(peer) }
    })
  startup.begin(leads ? 'opening its addresses' : 'looking for its servers')
  const unused = await startNode(node, listen)
  if (unused.length > 0) logger.warn({ addresses: unused }, 'cannot listen on some addresses, and listens on the others')
  if (leads && lead.term > 0) await signOwnAddresses(home, membership, leadership, node)
  roundTrips.start()
  cleanups.push(() => { roundTrips.stop() })
  if (services !== undefined) {
    const started = directory = new FounderDirectory({
      gate, membership, services, scope, announced,
      moveOf: (peer) => planner.moveOf(peer),
      onServersChanged: () => { known.changed() }
    })
    const planner = new MovePlanner({
      charter, known, logger, self: { id: peerId.toString(), span: span as Span }, afterMs: settings.moveAfterMs,
      changed: () => { started.toldAnew() }
    })
    cleanups.push(() => {
      planner.stop()
      started.stop()
    })
    await started.start()
    planner.start()
  }
  cleanups.push(async () => { await links.stop() })
  await links.start()
  if (follower !== undefined) {
    follower.start()
    cleanups.push(async () => { await follower.stop() })
    linked.update()
  }

  let http: HttpServer | undefined
  const status = (): DaemonStatus => daemonStatus({
    self, node, links, role, choice, leads, services, client, http: () => http, since
  })
  const operations = operationsOf({
    home, membership, services, directory, follower, node, gate, links, known, span, placement: () => mover?.placement, role,
    isClient: !isServer, client, status, stop
  })
  control.offer(operations)
  // What runs is ended before what it needs.
  cleanups.push(async () => { await control.stop() })
  if (httpAddress !== undefined) {
    // Few daemons serve HTTP, and only those load what does it.
    const [{ startHttpServer }, { localBackend }] = await Promise.all([import('../http/server.ts'), import('../http/backend.ts')])
    const started = http = await startHttpServer({
      home, charter, address: httpAddress, hosts: settings.httpHosts, backend: localBackend(operations), logger
    })
    cleanups.push(async () => { await started.stop() })
  }
  logger.info({ peer: peerId.toString(), federation: signed.id, role: settings.role }, 'ready')
  isReady = true
  // It was heard of while the daemon started: what has begun is undone as a whole.
  if (isSuperseded) setImmediate(() => { stop().catch(() => {}) })
  return { node, status, stopped, stop, get isSuperseded () { return isSuperseded }, get hasMoved () { return hasMoved } }
}

/** Where the model is, and the adapter that training starts from. */
function modelPaths (home: Home, { role, model }: Settings, isFounder: boolean): { readonly model: string, readonly adapter: string } {
  if (role === 'client') return { model: home.model, adapter: home.adapter }
  // A worker fetches the adapters of its blocks with its weights, or alone where it has a model directory.
  if (!isFounder) return { model: model ?? home.model, adapter: join(home.model, WEIGHTS_FILE) }
  if (model === undefined) throw new UsageError('the home does not say where the server\'s model is', 'add `model: DIR` to its config.yaml')
  return { model, adapter: home.adapter }
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
