import { yamux } from '@chainsafe/libp2p-yamux'
import { identify, type Identify } from '@libp2p/identify'
import type { Libp2p, PrivateKey } from '@libp2p/interface'
import { ping, type Ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { UsageError } from '../../errors.ts'
import { MAX_READ_BUFFER_BYTES, MAX_STREAM_WINDOW_BYTES } from '../../protocols/wire/constants.ts'
import { AGENT } from '../process/version.ts'
import { connectionEncrypter } from './encryption.ts'

export type Role = 'server' | 'client'

export type MidspanNode = Libp2p<{ identify: Identify, ping: Ping }>

export interface NodeOptions {
  readonly privateKey: PrivateKey
  readonly role: Role
  /** Multiaddrs to listen on; none for a peer that only dials. */
  readonly listen: readonly string[]
  readonly announce?: readonly string[]
  readonly maxConnections?: number
}

const MAX_CONNECTIONS = 300
/** New connections a second from one address: many clients may share one. */
const INBOUND_CONNECTIONS_PER_SECOND = 50
const MAX_PENDING_CONNECTIONS = 50
const DIAL_TIMEOUT_MS = 30_000

/** The protocol that a peer of a role answers to, so that identify tells others its role. */
function roleProtocol (role: Role): string {
  return `/midspan/role/${role}/1.0.0`
}

/** The role among a peer's protocols, or undefined where it names none or both. */
export function roleAmong (protocols: readonly string[]): Role | undefined {
  const roles = (['server', 'client'] as const).filter((role) => protocols.includes(roleProtocol(role)))
  return roles.length === 1 ? roles[0] : undefined
}

/** A libp2p node that advertises its role, not yet started: protocols are to be registered first. */
export async function createMidspanNode (options: NodeOptions): Promise<MidspanNode> {
  const node = await createLibp2p({
    privateKey: options.privateKey,
    start: false,
    nodeInfo: { userAgent: AGENT },
    addresses: { listen: [...options.listen], announce: [...options.announce ?? []] },
    transports: [tcp()],
    connectionEncrypters: [connectionEncrypter()],
    streamMuxers: [yamux({ streamOptions: { maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES, maxReadBufferLength: MAX_READ_BUFFER_BYTES } })],
    // A ping waits behind the tensors in the socket: on a slow uplink its failure says nothing. Requests have deadlines of their own.
    connectionMonitor: { abortConnectionOnPingFailure: false },
    connectionManager: {
      maxConnections: options.maxConnections ?? MAX_CONNECTIONS,
      inboundConnectionThreshold: INBOUND_CONNECTIONS_PER_SECOND,
      maxIncomingPendingConnections: MAX_PENDING_CONNECTIONS,
      dialTimeout: DIAL_TIMEOUT_MS,
      inboundUpgradeTimeout: DIAL_TIMEOUT_MS
    },
    services: { identify: identify(), ping: ping() }
  })
  // Only ever named: a stream of it that stayed open would gather what nobody reads.
  await node.handle(roleProtocol(options.role), (stream) => {
    stream.abort(new Error('nothing is said on this protocol'))
  }, { maxInboundStreams: 1 })
  return node
}

/** Starts a node. Throws UsageError when it cannot listen where it should. */
export async function startNode (node: MidspanNode, listen: readonly string[]): Promise<void> {
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
  if (listen.length > 0 && node.getMultiaddrs().length === 0) {
    await node.stop()
    throw new UsageError(`cannot listen on ${listen.join(', ')}`, 'choose another address with --listen')
  }
}

/** libp2p's error names the addresses that failed, each with its reason, on lines of their own. */
function reasonOf (error: unknown): string | undefined {
  const lines = error instanceof Error
    ? error.message.split('\n').map((line) => line.trim()).filter((line) => line.startsWith('/')).map((line) =>
      line.replace(/: \w*Error: /, ': ')
    )
    : []
  return lines.length === 0 ? undefined : lines.join('; ')
}
