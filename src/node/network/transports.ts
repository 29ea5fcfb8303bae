import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { UsageError } from '../../errors.ts'

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

/** Addresses that say "any" to whoever listens, and nothing to whoever dials. */
const UNSPECIFIED = ['0.0.0.0', '::']

/** Throws UsageError for an address that is announced and that no client could dial. */
export function checkAnnounced (address: string, peerId: string): void {
  const parsed = multiaddr(address)
  const reason = undialableReason(parsed, peerId)
  if (reason === undefined) return
  throw new UsageError(`cannot announce ${address}: ${reason}`, 'announce an address such as /dns4/example.org/tcp/4001')
}

function undialableReason (address: Multiaddr, peerId: string): string | undefined {
  const missing = missingTransport(address)
  if (missing !== undefined) return `it needs ${missing}, and Midspan speaks TCP`
  const components = address.getComponents()
  const valueOf = (part: string): string | undefined => components.find(({ name }) => name === part)?.value
  if (UNSPECIFIED.includes(components[0]?.value ?? '')) return 'it names no host that could be dialled'
  if (valueOf('tcp') === '0') return 'it names no port that could be dialled'
  const peer = valueOf('p2p')
  return peer === undefined || peer === peerId ? undefined : `it is an address of the peer ${peer}`
}
