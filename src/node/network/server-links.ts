import type { PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { Backoff } from '../../backoff.ts'
import { MidspanError } from '../../errors.ts'
import { protocolId } from '../../protocols/charter/index.ts'
import { RefusedError, REFUSALS, sayHello } from '../../protocols/hello/index.ts'
import type { KnownServer, Logger } from '../../roles/context.ts'
import type { KnownAddress } from '../federation/membership.ts'
import { AGENT } from '../process/version.ts'
import { dialPeer, UnreachableError } from './dial.ts'
import type { Gate } from './gate.ts'
import type { MidspanNode } from './libp2p.ts'

/** A server that restarts is back within seconds, and training waits for it: it is dialled again about once a second. */
const FIRST_RETRY_MS = 250
const LAST_RETRY_MS = 1_500

/** How long a server is dialled that often; one that is away for longer is dialled less often. */
const EAGER_MS = 3_600_000
const PATIENT_RETRY_MS = 10_000

/** A refusal seldom becomes a welcome. */
const REFUSED_RETRY_MS = 60_000
const HELLO_TIMEOUT_MS = 30_000

/** Says how long to wait at least for the next dial, after the server has been away for `awayMs`. */
export function leastPauseMs (refused: boolean, awayMs: number): number {
  if (refused) return REFUSED_RETRY_MS
  return awayMs < EAGER_MS ? 0 : PATIENT_RETRY_MS
}

export interface LinksOptions {
  readonly node: MidspanNode
  readonly gate: Gate
  readonly logger: Logger
  /** SHA-256 of the charter that this client pinned. */
  readonly charterHash: Uint8Array
  readonly servers: readonly KnownAddress[]
  /** The peer id of the server that leads the rounds of training. */
  readonly coordinator: string
}

/** Keeps a client connected to its servers: dials, says hello, and starts again when a connection is lost. */
export class ServerLinks {
  readonly #options: LinksOptions
  readonly #stopping = new AbortController()
  #loops: Array<Promise<void>> = []
  /** Why the last try to connect to a server failed, by peer id. */
  readonly #failures = new Map<string, MidspanError>()
  /** Ends the pauses between dials. */
  #waking = new AbortController()
  /** The addresses of each server, by peer id, the one that answered last first. */
  readonly #addresses = new Map<string, readonly string[]>()
  readonly #listeners = new Set<() => void>()

  constructor (options: LinksOptions) {
    this.#options = options
  }

  /** Starts connecting. Resolves when each server was tried once. */
  async start (): Promise<void> {
    await Promise.all(this.#options.servers.map(async (server) => {
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#loops.push(this.#keep(server, resolve))
      await promise
    }))
  }

  /** Dials at once each server that is not connected, in place of waiting for its next turn. */
  dialNow (): void {
    const waking = this.#waking
    this.#waking = new AbortController()
    waking.abort()
  }

  /** Why no server is connected; undefined while one is, or none was tried. */
  failure (): MidspanError | undefined {
    return this.servers().some(({ connected }) => connected) ? undefined : this.#failures.values().next().value
  }

  servers (): KnownServer[] {
    return this.#options.servers.map(({ peerId }) => {
      const id = peerIdFromString(peerId)
      return {
        peerId: id,
        connected: this.#options.gate.isGreeted(id),
        isCoordinator: peerId === this.#options.coordinator,
        span: undefined,
        load: undefined,
        roundTripMs: undefined
      }
    })
  }

  /** Calls back when a server came or went. Returns how to stop that. */
  onServersChanged (listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  /**
   * Gives this peer's place back at each server that can be reached, and stops: connecting again would take a new place where anybody may.
   * Returns the servers that were told; one that was not goes on counting this peer as a member.
   */
  async leave (signal: AbortSignal): Promise<string[]> {
    const { node, logger } = this.#options
    const connected = this.servers().filter(({ connected }) => connected).map(({ peerId }) => peerId)
    await this.stop()
    const told = await Promise.all(connected.map(async (peer) => {
      try {
        const stream = await node.dialProtocol(peer, protocolId('hello'), { signal })
        await sayHello(stream, { agent: AGENT, role: 'client', leaving: true }, signal)
        return [peer.toString()]
      } catch (error) {
        signal.throwIfAborted()
        logger.warn({ peer: peer.toString(), err: error }, 'could not tell a server that this peer leaves')
        return []
      }
    }))
    return told.flat()
  }

  async stop (): Promise<void> {
    this.#stopping.abort()
    await Promise.all(this.#loops)
    this.#loops = []
  }

  async #keep (server: KnownAddress, tried: () => void): Promise<void> {
    const { logger } = this.#options
    const { signal } = this.#stopping
    const peer = peerIdFromString(server.peerId)
    const backoff = new Backoff({ firstMs: FIRST_RETRY_MS, greatestMs: LAST_RETRY_MS })
    let lostMs = Date.now()
    while (!signal.aborted) {
      let refused = false
      try {
        await this.#connect(peer, server)
        backoff.reset()
        this.#failures.delete(server.peerId)
        tried()
        this.#notify()
        await this.#gone(peer)
        this.#notify()
        lostMs = Date.now()
      } catch (error) {
        if (signal.aborted) break
        logger.warn({ peer: server.peerId, err: error }, 'could not connect to a server')
        this.#failures.set(
          server.peerId,
          error instanceof MidspanError ? error : new UnreachableError(`the server ${server.peerId}`, error)
        )
        refused = error instanceof RefusedError
        tried()
      }
      await backoff.wait(AbortSignal.any([signal, this.#waking.signal]), leastPauseMs(refused, Date.now() - lostMs)).catch(() => {})
    }
    tried()
  }

  #notify (): void {
    for (const listener of this.#listeners) listener()
  }

  /** Resolves when the peer's last connection is gone, or the links stop. */
  async #gone (peer: PeerId): Promise<void> {
    const { gate } = this.#options
    const { signal } = this.#stopping
    const { promise, resolve } = Promise.withResolvers<void>()
    const off = gate.onDisconnect((other) => { if (other.equals(peer)) resolve() })
    const stop = (): void => { resolve() }
    signal.addEventListener('abort', stop)
    if (!gate.isGreeted(peer) || signal.aborted) resolve()
    await promise
    off()
    signal.removeEventListener('abort', stop)
  }

  async #connect (peer: PeerId, { peerId, addresses }: KnownAddress): Promise<void> {
    const { node, gate, charterHash } = this.#options
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(HELLO_TIMEOUT_MS)])
    const known = (this.#addresses.get(peerId) ?? addresses).map((address) => multiaddr(address))
    const connection = await dialPeer(node, peer, known, `the server ${peerId}`, signal)
    try {
      const stream = await connection.newStream(protocolId('hello'), { signal })
      const { agent, role } = await sayHello(stream, { agent: AGENT, role: 'client', federation: charterHash }, signal)
      if (role !== 'server') throw new RefusedError(REFUSALS.role, 'role', `${peerId} is a ${role}, not a server`)
      gate.greet(peer, 'server', agent)
    } catch (error) {
      connection.abort(new Error('no welcome came over this connection'))
      throw error
    }
    const answered = connection.remoteAddr.toString().split('/p2p/')[0] as string
    this.#addresses.set(peerId, addresses.toSorted((a, b) => Number(b.startsWith(answered)) - Number(a.startsWith(answered))))
  }
}
