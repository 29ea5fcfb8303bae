import { isLinkLocal, isLoopback, isNetworkAddress, isPrivate } from '@libp2p/utils'
import type { Multiaddr } from '@multiformats/multiaddr'

/** From where an address can be reached, the farthest first. */
const REACHES = ['a name', 'everywhere', 'its own network', 'its own link', 'this machine'] as const
export type Reach = typeof REACHES[number]

/** Addresses that an invite has room for. */
const MAX_ADDRESSES = 8

/** Addresses of one reach: a machine with many virtual networks has many that lead nowhere. */
const MAX_PER_REACH = 4

/** Says from where an address can be reached, as far as it tells: a private network may be large, and a name may lead anywhere. */
export function reachOf (address: Multiaddr): Reach {
  if (address.getComponents()[0]?.name.startsWith('dns') === true) return 'a name'
  if (!isNetworkAddress(address)) return 'this machine'
  if (isLoopback(address)) return 'this machine'
  if (isLinkLocal(address)) return 'its own link'
  return isPrivate(address) ? 'its own network' : 'everywhere'
}

export interface InviteAddresses {
  readonly addresses: readonly Multiaddr[]
  /** What whoever hands the invite over should know, or undefined. */
  readonly warning: string | undefined
}

/**
 * Chooses the addresses that an invite holds: those that reach farthest first, at most four of a kind, and those of this machine alone
 * only where there are no others.
 */
export function chooseInviteAddresses (addresses: readonly Multiaddr[]): InviteAddresses {
  const byReach = Map.groupBy(addresses, reachOf)
  const far = REACHES.filter((reach) => reach !== 'this machine' && reach !== 'its own link' && byReach.has(reach))
  const reaches = far.length > 0 ? far : REACHES.filter((reach) => byReach.has(reach))
  const chosen = reaches.flatMap((reach) => (byReach.get(reach) ?? []).slice(0, MAX_PER_REACH)).slice(0, MAX_ADDRESSES)
  return { addresses: chosen, warning: warningFor(chosen, reaches.flatMap((reach) => byReach.get(reach) ?? [])) }
}

const ANNOUNCE = 'start the daemon with --announce and an address or a name that others can reach, such as /dns4/example.org/tcp/4001'

function warningFor (chosen: readonly Multiaddr[], usable: readonly Multiaddr[]): string | undefined {
  const [farthest] = chosen.map(reachOf)
  if (farthest === undefined) return `the invite holds no address: ${ANNOUNCE}`
  if (farthest === 'this machine') return `the invite can be used on this machine alone: ${ANNOUNCE}`
  if (farthest === 'its own network' || farthest === 'its own link') return `the invite can be used in this server's own network alone: elsewhere, ${ANNOUNCE}`
  const left = usable.filter((address) => !chosen.includes(address))
  return left.length === 0 ? undefined : `the invite has no room for ${left.join(', ')}: to choose others, ${ANNOUNCE}`
}
