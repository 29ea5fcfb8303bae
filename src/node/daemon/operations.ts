import { rm } from 'node:fs/promises'
import { peerIdFromString } from '@libp2p/peer-id'
import { z } from 'zod'
import { UsageError } from '../../errors.ts'
import { peerIdSchema } from '../../protocols/charter/schema.ts'
import { createInvite, formatInvite } from '../../protocols/hello/index.ts'
import type { Operation, RunningRole } from '../../roles/context.ts'
import type { Membership } from '../federation/membership.ts'
import type { Home } from '../home/home.ts'
import { updateConfig } from '../home/settings.ts'
import type { Gate } from '../network/gate.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import type { ServerLinks } from '../network/server-links.ts'
import { listPeers } from './peer-status.ts'
import type { ServerServices } from './server-services.ts'

/** Longer ones are as good as for ever, and an invite that cannot be taken back should not be. */
const MAX_INVITE_MS = 10 * 365 * 24 * 3_600_000

const inviteSchema = z.strictObject({
  role: z.enum(['client', 'server']),
  expiresMs: z.int().positive().max(MAX_INVITE_MS, 'an invite expires within ten years'),
  uses: z.int().min(1).max(10_000)
})

const removeSchema = z.strictObject({ peer: peerIdSchema })

/** A daemon's parts, as its operations need them. */
export interface Running {
  readonly home: Home
  readonly membership: Membership
  /** A server's. */
  readonly services: ServerServices | undefined
  readonly node: MidspanNode
  readonly gate: Gate
  readonly links: ServerLinks
  readonly role: RunningRole
  readonly status: () => object
  readonly stop: () => Promise<void>
}

/** What the control socket of a daemon offers: what its role does, and what every member of its kind can be asked. */
export function operationsOf (running: Running): Record<string, Operation> {
  const { node, gate, role, status, services } = running
  return {
    ...role.operations,
    async *status () { yield status() },
    async *peers (_, signal) { yield { peers: await listPeers(node, gate, role, signal) } },
    ...(services === undefined
      ? { async *leave (_: unknown, signal: AbortSignal) { yield await leave(running, signal) } }
      : {
        async *invite (parameters: unknown) { yield await invite(running, parameters) },
        async *remove (parameters: unknown) { yield await remove(services, parameters) }
      })
  }
}

async function invite ({ node, membership: { key, signed } }: Running, parameters: unknown): Promise<object> {
  const result = inviteSchema.safeParse(parameters)
  if (!result.success)
    throw new UsageError(
      `the invite cannot be made: ${result.error.issues[0]?.message ?? 'its terms cannot be read'}`,
      'see: midspan invite --help'
    )
  const { role, expiresMs, uses } = result.data
  const expiresAtMs = Date.now() + expiresMs
  const made = await createInvite({
    federation: signed.id,
    addresses: farthestFirst(node.getMultiaddrs().map(String)),
    role,
    expiresAtMs,
    uses
  }, key)
  return { invite: formatInvite(made), role, expires: new Date(expiresAtMs).toISOString(), uses, addresses: made.addresses }
}

async function remove (services: ServerServices, parameters: unknown): Promise<object> {
  const result = removeSchema.safeParse(parameters)
  if (!result.success)
    throw new UsageError(
      `nobody can be removed: the peer ${result.error.issues[0]?.message ?? 'cannot be read'}`,
      'copy its id from: midspan status --json'
    )
  const { peer } = result.data
  if (!await services.remove(peerIdFromString(peer)))
    throw new UsageError(`${peer} has no place in this federation`, 'those that have one are the members in: midspan status --json')
  return { removed: peer }
}

/** An invite holds few addresses: those that only this machine can dial come last. */
function farthestFirst (addresses: readonly string[]): string[] {
  const isLoopback = (address: string): number => Number(/^\/(ip4\/127\.|ip6\/::1\/)/.test(address))
  return addresses.toSorted((a, b) => isLoopback(a) - isLoopback(b))
}

/** Ends all work, gives the place back, empties the home of all but the identity, and stops the daemon once the caller has its answer. */
async function leave ({ home, links, membership: { signed }, role, stop }: Running, signal: AbortSignal): Promise<object> {
  await role.stop()
  const told = await links.leave(signal)
  for (const path of [home.charter, home.servers, home.model, home.state]) await rm(path, { recursive: true, force: true })
  await updateConfig(home, { role: undefined, inputBlocks: undefined, outputBlocks: undefined, noise: undefined, gradientNoise: undefined })
  setImmediate(() => { stop().catch(() => {}) })
  return { left: signed.id, told }
}
