import { identify, type Identify } from '@libp2p/identify'
import type { Connection, Libp2p, PrivateKey } from '@libp2p/interface'
import { ping, type Ping } from '@libp2p/ping'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { UsageError } from '../../errors.ts'
import { MAX_READ_BUFFER_BYTES, MAX_STREAM_WINDOW_BYTES } from '../../protocols/wire/constants.ts'
import { StrangersGarbage } from '../process/collection.ts'
import { AGENT } from '../process/version.ts'
import { ConnectionGuard, guardConnection, guardedYamux } from './connection-guard.ts'
import { connectionEncrypter } from './encryption.ts'
import { guardedTcp, placeOf } from './guarded-tcp.ts'
import { InboundLimits } from './inbound-limits.ts'
import { pingIntervalOf, SILENCE_TIMEOUT_MS, watchLiveness } from './liveness.ts'
import { quietLogger } from './quiet-logger.ts'
import { missingTransport } from './transports.ts'

export type Role = 'server' | 'client'

/** What Midspan uses of libp2p's transports. */
export interface Transports {
  /** The addresses that are listened on, whatever is announced. */
  getAddrs (): Multiaddr[]
  /** Dials one address, whatever other dials to the same peer are under way. */
  dial (address: Multiaddr, options: { readonly signal: AbortSignal }): Promise<Connection>
}

export type MidspanNode = Libp2p<{ identify: Identify, ping: Ping, inbound: InboundLimits, transports: Transports }>

export interface NodeOptions {
  readonly privateKey: PrivateKey
  readonly role: Role
  /** Multiaddrs to listen on; none for a peer that only dials. */
  readonly listen: readonly string[]
  readonly announce?: readonly string[]
  readonly maxConnections?: number
  /** How long a connection may be silent until it is dead: 45 s unless given. */
  readonly silenceTimeoutMs?: number
}

const MAX_CONNECTIONS = 300
const DIAL_TIMEOUT_MS = 30_000

/** A handshake takes three round trips and a few milliseconds of computing, from when it is its turn. */
const HANDSHAKE_TIMEOUT_MS = 5_000

/** A peer that costs more than it may is twice as much to blame as one that says no hello. */
const COSTLY_BLAME = 2

/** Agreeing on a stream's protocol takes two round trips. */
const NEGOTIATION_TIMEOUT_MS = 5_000

/** The protocol that a peer of a role answers to, so that identify tells others its role. */
function roleProtocol (role: Role): string {
  return `/midspan/role/${role}/1.0.0`
}

/** The role among a peer's protocols, or undefined where it names none or both. */
export function roleAmong (protocols: readonly string[]): Role | undefined {
  const roles = (['server', 'client'] as const).filter((role) => protocols.includes(roleProtocol(role)))
  return roles.length === 1 ? roles[0] : undefined
}

/** Creates a libp2p node that advertises its role. The caller registers protocols, then starts it. */
export async function createMidspanNode (options: NodeOptions): Promise<MidspanNode> {
  const silenceTimeoutMs = options.silenceTimeoutMs ?? SILENCE_TIMEOUT_MS
  const inbound = new InboundLimits({ maxConnections: options.maxConnections ?? MAX_CONNECTIONS })
  const garbage = new StrangersGarbage()
  const node = await createLibp2p({
    privateKey: options.privateKey,
    start: false,
    nodeInfo: { userAgent: AGENT },
    addresses: { listen: [...options.listen], announce: [...options.announce ?? []] },
    ...(process.env.DEBUG === undefined ? { logger: quietLogger } : {}),
    transports: [guardedTcp(inbound, () => { garbage.connectionClosed() })],
    connectionEncrypters: [connectionEncrypter({
      onSecured: ({ transport, secured, remotePeer }) => {
        const isMember = transport.direction === 'outbound' ? () => true : () => inbound.isMember(remotePeer.toString())
        guardConnection(transport, secured, new ConnectionGuard(isMember, (error) => {
          inbound.blame(placeOf(transport), COSTLY_BLAME)
          transport.abort(error)
        }))
        watchLiveness(transport, silenceTimeoutMs)
      }
    })],
    streamMuxers: [guardedYamux({
      keepAliveInterval: pingIntervalOf(silenceTimeoutMs),
      streamOptions: { maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES, maxReadBufferLength: MAX_READ_BUFFER_BYTES }
    })],
    // Its ping waits behind the tensors in the socket: on a slow uplink a late answer says nothing. Liveness is measured by bytes.
    connectionMonitor: { enabled: false },
    connectionManager: {
      // InboundLimits decides, by address and by member: libp2p's own limits make no difference between strangers and members.
      maxConnections: Number.MAX_SAFE_INTEGER,
      inboundConnectionThreshold: Number.MAX_SAFE_INTEGER,
      maxIncomingPendingConnections: Number.MAX_SAFE_INTEGER,
      addressSorter: () => 0,
      dialTimeout: DIAL_TIMEOUT_MS,
      inboundUpgradeTimeout: HANDSHAKE_TIMEOUT_MS,
      inboundStreamProtocolNegotiationTimeout: NEGOTIATION_TIMEOUT_MS
    },
    services: {
      identify: identify(),
      ping: ping(),
      inbound: () => inbound,
      // An object of its own: libp2p would start its transports a second time as a service.
      transports: ({ transportManager }: { readonly transportManager: Transports }): Transports => ({
        getAddrs: () => transportManager.getAddrs(),
        dial: async (address, options) => await transportManager.dial(address, options)
      })
    }
  })
  node.addEventListener('connection:open', ({ detail: connection }) => {
    if (connection.direction === 'inbound') inbound.identify(placeOf(connection), connection.remotePeer.toString())
  })
  // The protocol is named and never spoken: a stream of it that stayed open would gather bytes that nobody reads.
  await node.handle(roleProtocol(options.role), (stream) => {
    stream.abort(new Error('nothing is said on this protocol'))
  }, { maxInboundStreams: 1 })
  return node
}

/**
 * Starts a node. Returns the addresses to listen on that could not be used and may be done without, such as IPv6 on a machine that has
 * none. Throws UsageError when it cannot listen on one of the others.
 */
export async function startNode (node: MidspanNode, listen: readonly string[]): Promise<string[]> {
  for (const address of listen) {
    const missing = missingTransport(multiaddr(address))
    if (missing !== undefined) {
      throw new UsageError(
        `cannot listen on ${address}: it needs ${missing}, and Midspan speaks TCP`,
        'choose an address such as /ip4/0.0.0.0/tcp/4001'
      )
    }
  }
  try {
    await node.start()
  } catch (error) {
    await node.stop()
    throw new UsageError(
      `cannot listen on ${reasonOf(error) ?? listen.join(', ')}`,
      'stop what uses the port, or choose another address with --listen',
      error
    )
  }
  const addresses = node.services.transports.getAddrs()
  if (listen.length > 0 && addresses.length === 0) {
    await node.stop()
    throw new UsageError(`cannot listen on ${listen.join(', ')}`, 'choose another address with --listen')
  }
  const families = new Set(addresses.map(familyOf))
  return listen.filter((address) => !families.has(familyOf(multiaddr(address))))
}

function familyOf (address: Multiaddr): string | undefined {
  return address.getComponents()[0]?.name
}

/** Reads the addresses that failed out of libp2p's error, which names each with its reason on a line of its own. */
function reasonOf (error: unknown): string | undefined {
  const lines = error instanceof Error
    ? error.message.split('\n').map((line) => line.trim()).filter((line) => line.startsWith('/')).map((line) =>
      line.replace(/: \w*Error: /, ': ')
    )
    : []
  return lines.length === 0 ? undefined : lines.join('; ')
}
