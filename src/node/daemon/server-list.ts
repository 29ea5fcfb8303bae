import type { ResultOf } from '../../api/operations.ts'
import type { ServerLine } from '../../api/servers.ts'
import type { AnnouncedPlacement } from '../../protocols/directory/index.ts'
import { servableSpan } from '../../roles/charter-settings.ts'
import type { RunningRole } from '../../roles/context.ts'
import type { Span } from '../../span.ts'
import { coveredSpans } from '../federation/coverage.ts'
import type { Membership } from '../federation/membership.ts'
import { chooseInviteAddresses } from '../network/invite-addresses.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import { AGENT } from '../process/version.ts'
import type { KnownServers } from './known-servers.ts'

/** What the list is made of. */
export interface ServerListParts {
  readonly membership: Membership
  readonly known: KnownServers
  readonly node: MidspanNode
  readonly role: RunningRole
  /** The blocks that this peer serves, where it is a server. */
  readonly span: Span | undefined
  /** How it came by them, where it chose them by itself. */
  readonly placement: () => AnnouncedPlacement | undefined
}

/**
 * Says who serves which blocks, this peer included where it is a server, and which blocks nobody serves. A server that is not connected
 * serves nothing for now, as one that was killed: of many servers of a block a client counts those that it keeps connections to. A worker,
 * which other workers do not connect to, takes their word.
 */
export function listServers (
  { membership: { peerId, lead, signed: { charter } }, known, node, role, span, placement }: ServerListParts
): ResultOf<'servers'> {
  const self = span === undefined ? [] : [{
    peerId: peerId.toString(),
    isSelf: true,
    isCoordinator: peerId.toString() === lead.peer,
    connected: true,
    blocks: span,
    roundTripMs: null,
    load: role.load?.() ?? null,
    placement: placementLine(placement()),
    agent: AGENT,
    addresses: chooseInviteAddresses(node.getMultiaddrs()).addresses.map(String)
  }]
  const others = known.servers().map(({ peerId, isCoordinator, connected, span, roundTripMs, load }) => {
    const announcement = known.announcementOf(peerId.toString())
    return {
      peerId: peerId.toString(),
      isSelf: false,
      isCoordinator,
      connected,
      blocks: span ?? null,
      roundTripMs: roundTripMs ?? null,
      load: load ?? null,
      placement: placementLine(announcement?.placement),
      agent: announcement?.agent ?? null,
      addresses: announcement?.addresses ?? []
    }
  })
  const servers = [...self, ...others]
  const middle = servableSpan(charter)
  const isWorker = span !== undefined && peerId.toString() !== lead.peer
  const serving = servers.filter(({ connected }) => connected || isWorker)
  const coverage = coveredSpans(middle, serving.flatMap(({ blocks }) => blocks === null ? [] : [blocks]))
  return { servers, middle, coverage, missing: coverage.filter(({ servers }) => servers === 0).map(({ blocks }) => blocks) }
}

function placementLine (placement: AnnouncedPlacement | undefined): ServerLine['placement'] {
  return placement === undefined ? null : { isDraining: placement.isDraining, reason: placement.reason === '' ? null : placement.reason }
}
