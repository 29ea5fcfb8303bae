import type { ResultOf } from '../../api/operations.ts'
import type { ClientSettings } from '../../protocols/charter/index.ts'
import type { PeerStatus } from '../../protocols/status/status.ts'
import type { RunningRole } from '../../roles/context.ts'
import type { HttpServer } from '../http/server.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import type { ServerLinks } from '../network/server-links.ts'
import { AGENT } from '../process/version.ts'
import type { FounderServices } from './founder-services.ts'
import { blockSpan } from './peer-status.ts'
import type { KnownAtStart } from './starting.ts'

/** What `midspan status` shows. */
export type DaemonStatus = ResultOf<'status'>

/** A daemon's parts, as its status needs them. */
export interface StatusParts {
  readonly self: Omit<KnownAtStart, 'device'>
  readonly node: MidspanNode
  readonly links: ServerLinks
  readonly role: RunningRole
  /** The device that was chosen, and why. */
  readonly choice: { readonly kind: string, readonly reason: string }
  /** Whether this server leads. */
  readonly leads: boolean
  /** A leading server's. */
  readonly services: FounderServices | undefined
  /** A client's settings, which change as it comes to hold other blocks. */
  readonly client: { readonly settings: ClientSettings } | undefined
  /** The HTTP server, where there is one by now. */
  readonly http: () => HttpServer | undefined
  readonly since: Date
}

/** What `midspan status` shows of a daemon that is ready. */
export function daemonStatus (parts: StatusParts): DaemonStatus {
  const { self, node, links, choice, leads, services, client, since } = parts
  const {
    blocks, device = choice.kind, training = null, generation = null, route = null, verification = null
  } = parts.role.status()
  const failure = links.failure()
  const http = parts.http()
  return {
    ...self,
    addresses: node.getMultiaddrs().map(String),
    listening: node.services.transports.getAddrs().map((address) => `${address.toString()}/p2p/${self.peerId}`),
    device,
    deviceReason: choice.reason,
    blocks: self.role === 'server' ? blockSpan(blocks) : null,
    partition: client?.settings.partition ?? null,
    connected: leads ? node.getMultiaddrs().length > 0 : links.servers().some(({ connected }) => connected),
    disconnectedReason: failure === undefined ? null : `${failure.message}${failure.next === undefined ? '' : ` (${failure.next})`}`,
    members: services?.members() ?? null,
    training,
    generation,
    route,
    verification,
    ...http === undefined ? {} : { http: { url: http.url, tokenFile: http.tokenPath } },
    since: since.toISOString()
  }
}

/** What a server tells admitted peers of itself; `chosen` is the device where the role does not name one, and it started at `sinceMs`. */
export function serverStatus (role: RunningRole, chosen: string, sinceMs: number): PeerStatus {
  const { blocks = [], device = chosen, sessions = [], round = 0, members = [] } = role.status()
  return { agent: AGENT, role: 'server', device, blocks, sessions: sessions.length, round, members, uptimeMs: performance.now() - sinceMs }
}
