import type { PeerId } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'

/** Addresses that name the peer, so that nobody else is taken for it. */
export function withPeer (addresses: readonly Multiaddr[], peer: PeerId): Multiaddr[] {
  return addresses.map((address) =>
    address.getComponents().some(({ name }) => name === 'p2p') ? address : address.encapsulate(`/p2p/${peer.toString()}`)
  )
}
