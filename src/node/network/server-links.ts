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
import { withPeer } from './addresses.ts'
import { UnreachableError, type Gate } from './gate.ts'
import type { MidspanNode } from './libp2p.ts'

/** A server that restarts is back within seconds, and training waits for it; a refusal seldom becomes a welcome. */
const FIRST_RETRY_MS = 750
const LAST_RETRY_MS = 10_000
const REFUSED_RETRY_MS = 60_000
const HELLO_TIMEOUT_MS = 30_000

export interface LinksOptions {
  readonly node: MidspanNode
  readonly gate: Gate
  readonly logger: Logger
  /** SHA-256 of the charter that this client pinned. */
  readonly charterHash: Uint8Array
  readonly servers: readonly KnownAddress[]
}

/** Keeps a client connected to its servers: dials, says hello, and starts again when a connection is lost. */
export class ServerLinks {
  readonly #options: LinksOptions
  readonly #stopping = new AbortController()
  #loops: Array<Promise<void>> = []
  /** Why the last try to connect to a server failed, by peer id. */
  readonly #failures = new Map<string, MidspanError>()

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

  /** Why no server is connected; undefined while one is, or none was tried. */
  failure (): MidspanError | undefined {
    return this.servers().some(({ connected }) => connected) ? undefined : this.#failures.values().next().value
  }

  servers (): KnownServer[] {
    return this.#options.servers.map(({ peerId }) => {
      const id = peerIdFromString(peerId)
      return { peerId: id, connected: this.#options.gate.isGreeted(id) }
    })
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
    while (!signal.aborted) {
      let refused = false
      try {
        await this.#connect(peer, server.addresses)
        backoff.reset()
        this.#failures.delete(server.peerId)
        tried()
        await this.#gone(peer)
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
      await backoff.wait(signal, refused ? REFUSED_RETRY_MS : 0).catch(() => {})
    }
    tried()
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

  async #connect (peer: PeerId, addresses: readonly string[]): Promise<void> {
    const { node, gate, charterHash } = this.#options
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(HELLO_TIMEOUT_MS)])
    await node.dial(withPeer(addresses.map((address) => multiaddr(address)), peer), { signal })
    const stream = await node.dialProtocol(peer, protocolId('hello'), { signal })
    const { agent, role } = await sayHello(stream, { agent: AGENT, role: 'client', federation: charterHash }, signal)
    if (role !== 'server') throw new RefusedError(REFUSALS.role, 'role', `${peer.toString()} is a ${role}, not a server`)
    gate.greet(peer, 'server', agent)
  }
}
