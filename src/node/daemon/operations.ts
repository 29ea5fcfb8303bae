import { rm } from 'node:fs/promises'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import type { OfferedOperations, ParametersOf, ResultOf } from '../../api/operations.ts'
import { UsageError } from '../../errors.ts'
import type { ClientSettings } from '../../protocols/charter/index.ts'
import type { AnnouncedPlacement } from '../../protocols/directory/index.ts'
import { createInvite, formatInvite } from '../../protocols/hello/index.ts'
import type { RunningRole } from '../../roles/context.ts'
import type { Span } from '../../span.ts'
import type { Membership } from '../federation/membership.ts'
import type { Home } from '../home/home.ts'
import { updateConfig } from '../home/settings.ts'
import type { Gate } from '../network/gate.ts'
import { chooseInviteAddresses } from '../network/invite-addresses.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import type { ServerLinks } from '../network/server-links.ts'
import type { DirectoryFollower } from './directory-follower.ts'
import type { FounderDirectory } from './founder-directory.ts'
import type { FounderServices } from './founder-services.ts'
import type { KnownServers } from './known-servers.ts'
import { partitionOperation } from './partition.ts'
import { listPeers } from './peer-status.ts'
import { listServers } from './server-list.ts'
import { waitingForServers } from './server-waits.ts'

/** A daemon's parts, as its operations need them. */
export interface Running {
  readonly home: Home
  readonly membership: Membership
  /** A founder's. */
  readonly services: FounderServices | undefined
  /** A founder's. */
  readonly directory: Pick<FounderDirectory, 'toldAnew'> | undefined
  /** Everybody else's. */
  readonly follower: DirectoryFollower | undefined
  readonly node: MidspanNode
  readonly gate: Gate
  readonly links: ServerLinks
  readonly known: KnownServers
  /** The blocks that this peer serves, where it is a server. */
  readonly span: Span | undefined
  /** How it came by them, where it chose them by itself. */
  readonly placement: () => AnnouncedPlacement | undefined
  readonly role: RunningRole
  readonly isClient: boolean
  /** A client's settings, and what sets them. */
  readonly client: { settings: ClientSettings } | undefined
  readonly status: () => ResultOf<'status'>
  readonly stop: () => Promise<void>
}

/** Returns what the control socket of a daemon offers: what its role does, and what every member of its kind can be asked. */
export function operationsOf (running: Running): OfferedOperations {
  const { node, gate, links, role, isClient, status, services } = running
  const common: OfferedOperations = {
    async *status () { yield status() },
    async *servers () { yield listServers(running) },
    async *peers (_, signal) { yield { peers: await listPeers(node, gate, role, signal) } }
  }
  if (services !== undefined) {
    return {
      ...role.operations,
      ...common,
      async *invite (parameters) { yield await invite(running, services, parameters) },
      async *invites () {
        yield {
          invites: services.invites().map(({ expiresAtMs, ...rest }) => ({ ...rest, expires: new Date(expiresAtMs).toISOString() }))
        }
      },
      async *revoke ({ invite: id }) {
        const revoked = await services.revoke(id)
        if (revoked === undefined)
          throw new UsageError('no invite, or more than one, has this id', 'copy an id from: midspan invites')
        yield { revoked }
      },
      async *entrust ({ peer, expiresMs }) {
        const { expiresAtMs } = await services.entrust(peerIdOf(peer).toString(), expiresMs)
        running.directory?.toldAnew()
        running.known.changed()
        yield { entrusted: peer, expires: new Date(expiresAtMs).toISOString() }
      },
      async *remove ({ peer }) { yield await remove(services, peer) }
    }
  }
  return {
    ...isClient ? waitingForServers(role.operations, links) : role.operations,
    ...role.partition === undefined || running.client === undefined
      ? {}
      : { partition: partitionOperation(running, { changes: role.partition, client: running.client }) },
    ...common,
    async *leave ({ timeoutMs }, signal) { yield await leave(running, timeoutMs, signal) }
  }
}

async function invite (
  { node, membership: { key, signed } }: Running,
  services: FounderServices,
  { role, expiresMs, uses, weight = 1 }: ParametersOf<'invite'>
): Promise<ResultOf<'invite'>> {
  const expiresAtMs = Date.now() + expiresMs
  const { addresses, warning } = chooseInviteAddresses(node.getMultiaddrs())
  const made = await createInvite({ federation: signed.id, addresses: addresses.map(String), role, expiresAtMs, uses, weight }, key)
  await services.issue(made)
  return {
    invite: formatInvite(made),
    id: made.nonce,
    role,
    expires: new Date(expiresAtMs).toISOString(),
    uses,
    weight,
    addresses: made.addresses,
    warning: warning ?? null
  }
}

async function remove (services: FounderServices, peer: string): Promise<ResultOf<'remove'>> {
  if (!await services.remove(peerIdOf(peer)))
    throw new UsageError(`${peer} has no place in this federation`, 'those that have one are the members in: midspan status --json')
  const openInvites = services.invites().filter(({ usedBy }) => usedBy.includes(peer)).map(({ id }) => id)
  return { removed: peer, ...(openInvites.length === 0 ? {} : { openInvites }) }
}

function peerIdOf (text: string): PeerId {
  try {
    return peerIdFromString(text)
  } catch (error) {
    throw new UsageError(`the peer ${text} is not an Ed25519 peer id`, 'copy its id from: midspan status --json', error)
  }
}

/**
 * Ends all work, gives the place back, empties the home of all but the identity, and stops the daemon once the caller has its answer.
 * A server that does not answer in time is not told: leaving does not depend on it.
 */
async function leave (
  { home, links, follower, membership: { signed }, role, stop }: Running,
  timeoutMs: number,
  signal: AbortSignal
): Promise<ResultOf<'leave'>> {
  await role.stop()
  const limit = AbortSignal.timeout(timeoutMs)
  const told = await links.leave(AbortSignal.any([signal, limit])).catch((error: unknown) => {
    signal.throwIfAborted()
    if (limit.aborted) return []
    throw error
  })
  await follower?.stop()
  const { charter, servers, certificate, lead, move, model, state, runs } = home
  for (const path of [charter, servers, certificate, lead, move, model, state, runs]) await rm(path, { recursive: true, force: true })
  await updateConfig(home, {
    role: undefined,
    blocks: undefined,
    memory: undefined,
    model: undefined,
    inputBlocks: undefined,
    outputBlocks: undefined,
    noise: undefined,
    gradientNoise: undefined,
    keepStream: undefined
  })
  setImmediate(() => { stop().catch(() => {}) })
  return { left: signed.id, told }
}
