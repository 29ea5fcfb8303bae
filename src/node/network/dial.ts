import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection, PeerId } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import { isDefect, MidspanError } from '../../errors.ts'
import { withPeer } from './addresses.ts'
import type { MidspanNode } from './libp2p.ts'
import { missingTransport } from './transports.ts'

/** There is no way to a peer now. */
export class UnreachableError extends MidspanError {
  static readonly code = 'E_UNREACHABLE'

  constructor (what: string, cause?: unknown, reason = cause instanceof Error ? cause.message.split('\n')[0] : undefined) {
    super(UnreachableError.code, `${what} cannot be reached${reason === undefined ? '' : `: ${reason}`}`, {
      next: 'check that it runs, and that its address can be reached from here',
      cause,
      // A peer that does not speak a protocol will not learn it by being asked again.
      retryable: !isDefect(cause) && !(cause instanceof Error && cause.name === 'UnsupportedProtocolError')
    })
  }
}

/** How long one address may take to answer and to agree on keys. */
const ADDRESS_TIMEOUT_MS = 10_000

/** How long an address is tried alone before the next one is tried beside it, as RFC 8305 has it for a host's addresses. */
const STAGGER_MS = 250

/** Pauses before an address is tried again that closed the connection: a server that is crowded has room a moment later. */
const CLOSED_RETRY_MS = [500, 1500]

/**
 * Connects to a peer at the first of its addresses that answers as that peer. Addresses are tried in order, each begun before the one
 * before it has failed. Throws UnreachableError with each address and why it failed.
 */
export async function dialPeer (
  node: MidspanNode,
  peer: PeerId,
  addresses: readonly Multiaddr[],
  what: string,
  signal: AbortSignal
): Promise<Connection> {
  const settled = new AbortController()
  const either = AbortSignal.any([signal, settled.signal])
  const failures: Array<readonly [address: Multiaddr, error: unknown]> = []
  const { promise, resolve } = Promise.withResolvers<Connection | undefined>()
  const tries = withPeer(addresses, peer).map(async (address, index) => {
    try {
      await sleep(index * STAGGER_MS, undefined, { signal: either })
      const connection = await dialAddress(node, address, either)
      if (settled.signal.aborted) connection.abort(new Error('another address answered first'))
      settled.abort()
      resolve(connection)
    } catch (error) {
      failures[index] = [addresses[index] as Multiaddr, error]
    }
  })
  void Promise.all(tries).then(() => { resolve(undefined) })
  const onAbort = (): void => { resolve(undefined) }
  signal.addEventListener('abort', onAbort, { once: true })
  const connection = await promise
  signal.removeEventListener('abort', onAbort)
  settled.abort()
  if (connection !== undefined) return connection
  if (signal.aborted && (signal.reason as Error).name !== 'TimeoutError') throw signal.reason
  const tried = failures.flatMap((failure) => failure === undefined ? [] : [failure])
  throw new UnreachableError(
    what,
    new AggregateError(tried.map(([, error]) => error)),
    addresses.length === 0
      ? 'no address of it is known'
      : addresses.map((address, index) => `${address.toString().split('/p2p/12D')[0]}: ${reasonOf(failures[index]?.[1])}`).join('; ')
  )
}

async function dialAddress (node: MidspanNode, address: Multiaddr, signal: AbortSignal): Promise<Connection> {
  const missing = missingTransport(address)
  if (missing !== undefined) throw new MissingTransportError(missing)
  for (let attempt = 0; ; attempt++) {
    try {
      return await dialOnce(node, address, signal)
    } catch (error) {
      const pauseMs = CLOSED_RETRY_MS[attempt]
      if (!wasClosed(error) || pauseMs === undefined) throw error
      await sleep(pauseMs * (0.5 + Math.random()), undefined, { signal })
    }
  }
}

/** Dials with a signal of its own that is let go of in the end: the socket keeps it, and would be destroyed whenever it aborts. */
async function dialOnce (node: MidspanNode, address: Multiaddr, signal: AbortSignal): Promise<Connection> {
  signal.throwIfAborted()
  const controller = new AbortController()
  const give = (): void => { controller.abort(signal.reason) }
  const timer = setTimeout(() => { controller.abort() }, ADDRESS_TIMEOUT_MS)
  signal.addEventListener('abort', give, { once: true })
  try {
    const options = { signal: controller.signal }
    const isRecord = address.getComponents()[0]?.name === 'dnsaddr'
    return await (isRecord ? node.dial(address, options) : node.services.transports.dial(address, options))
  } catch (error) {
    if (controller.signal.aborted && !signal.aborted) throw new Error(`no answer within ${ADDRESS_TIMEOUT_MS / 1000} s`, { cause: error })
    throw error
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', give)
  }
}

class MissingTransportError extends Error {
  constructor (transport: string) {
    super(`it needs ${transport}, and Midspan speaks TCP`)
  }
}

/** What a connection that the other side closed during its handshake fails with. */
const CLOSED = /closed|reset|ended|EOF|EPIPE/i

function wasClosed (error: unknown): boolean {
  return error instanceof Error && !/ECONNREFUSED/.test(error.message) && CLOSED.test(`${error.name} ${error.message}`)
}

/** What the system's codes of failures say. */
const SYSTEM_REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'its name cannot be looked up now',
  ETIMEDOUT: 'no answer',
  EHOSTUNREACH: 'no way to its host',
  ENETUNREACH: 'no way to its network',
  EACCES: 'this machine does not allow it (a firewall, or what confines this process)',
  EPERM: 'this machine does not allow it (a firewall, or what confines this process)',
  EADDRNOTAVAIL: 'this machine has no address or port left for it',
  EMFILE: 'this process has too many files open (ulimit -n)',
  ENFILE: 'this machine has too many files open',
  ENOBUFS: 'this machine has no memory left for connections',
  ENOMEM: 'this machine has no memory left for connections'
}

/** Says in a few words why an address failed. */
export function reasonOf (error: unknown): string {
  if (!(error instanceof Error) || error.name === 'AbortError' || error.name === 'TimeoutError') return 'no answer'
  const { code } = error as NodeJS.ErrnoException
  if (code !== undefined && SYSTEM_REASONS[code] !== undefined) return SYSTEM_REASONS[code]
  if (/does not match expected remote identity key/.test(error.message)) return 'another peer answers there'
  if (wasClosed(error)) return 'it closed the connection'
  return error.message.split('\n')[0] as string
}
