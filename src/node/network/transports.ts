import type { Multiaddr } from '@multiformats/multiaddr'

/** Parts of an address that say where a host is. */
const HOSTS = ['ip4', 'ip6', 'dns', 'dns4', 'dns6']

/** The transports that other implementations of libp2p speak, by the part of an address that asks for them. */
const OTHER_TRANSPORTS: ReadonlyArray<readonly [part: string, name: string]> = [
  ['p2p-circuit', 'a circuit relay'],
  ['webtransport', 'WebTransport'],
  ['webrtc-direct', 'WebRTC'],
  ['webrtc', 'WebRTC'],
  ['quic-v1', 'QUIC'],
  ['quic', 'QUIC'],
  ['wss', 'WebSocket'],
  ['ws', 'WebSocket'],
  ['unix', 'a Unix socket'],
  ['udp', 'a transport over UDP']
]

/** Returns the name of the transport that an address needs and Midspan does not have, or undefined where TCP is enough. */
export function missingTransport (address: Multiaddr): string | undefined {
  const names = address.getComponents().map(({ name }) => name)
  const other = OTHER_TRANSPORTS.find(([part]) => names.includes(part))
  if (other !== undefined) return other[1]
  const parts = names.filter((name) => name !== 'p2p' && name !== 'ip6zone')
  if (parts.length === 1 && parts[0] === 'dnsaddr') return undefined // what its records say is known when it is dialled
  const isTcp = parts.length === 2 && HOSTS.includes(parts[0] as string) && parts[1] === 'tcp'
  return isTcp ? undefined : `something other than a host and a TCP port (${address.toString()})`
}
