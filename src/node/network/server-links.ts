import type { PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { Backoff } from '../../backoff.ts'
import { MidspanError } from '../../errors.ts'
import { protocolId } from '../../protocols/charter/index.ts'
import { RefusedError, REFUSALS, sayHello } from '../../protocols/hello/index.ts'
import type { Logger } from '../../roles/context.ts'
import type { KnownAddress } from '../federation/membership.ts'
import { AGENT } from '../process/version.ts'
import { dialPeer, UnreachableError } from './dial.ts'
import type { Gate } from './gate.ts'
import type { MidspanNode, Role } from './libp2p.ts'

/** A server that restarts is back within seconds, and training waits for it: it is dialled again about once a second. */
const FIRST_RETRY_MS = 250
const LAST_RETRY_MS = 1_500

/** How long a server is dialled that often; one that is away for longer is dialled less often. */
const EAGER_MS = 3_600_000
const PATIENT_RETRY_MS = 10_000

/** A refusal seldom becomes a welcome. */
const REFUSED_RETRY_MS = 60_000
const HELLO_TIMEOUT_MS = 30_000

/** How long work waits for a server that is being dialled again. */
const REACH_TIMEOUT_MS = 2_000

/** Says how long to wait at least for the next dial, after the server has been away for `awayMs`. */
export function leastPauseMs (refused: boolean, awayMs: number): number {
  if (refused) return REFUSED_RETRY_MS
  return awayMs < EAGER_MS ? 0 : PATIENT_RETRY_MS
}

export interface LinksOptions {
  readonly node: MidspanNode
  readonly gate: Gate
  readonly logger: Logger
  /** What this peer is. */
  readonly role: Role
  /** SHA-256 of the charter that this peer pinned. */
  readonly charterHash: Uint8Array
  /** Returns the certificate that this peer shows to servers, where it has one. */
  readonly certificate?: () => Uint8Array | undefined
  /** Returns the signed record of who leads that this peer shows to servers, where it has one. */
  readonly lead?: () => Uint8Array | undefined
  /** Called with the signed record of who leads, not verified, that a server showed. */
  readonly heard?: (lead: Uint8Array) => void
  /** The servers to connect to at first. */
  readonly servers: readonly KnownAddress[]
}

/** A server that this peer keeps a connection to, and whether it has one now. */
export interface LinkedServer {
  readonly peerId: PeerId
  readonly connected: boolean
}

interface Link {
  readonly peer: PeerId
  /** The addresses of the server, the one that answered last first. */
  addresses: readonly string[]
  /** Whether the server is still to be dialled when its connection is lost. */
  isWanted: boolean
  readonly stopping: AbortController
  done: Promise<void>
}

/** Keeps a peer connected to servers: dials, says hello, and starts again when a connection is lost. */
export class ServerLinks {
  readonly #options: LinksOptions
  readonly #stopping = new AbortController()
  /** By peer id, in the order of the servers that were given. */
  readonly #links = new Map<string, Link>()
  /** Why the last try to connect to a server failed, by peer id. */
  readonly #failures = new Map<string, MidspanError>()
  /** Ends the pauses between dials. */
  #waking = new AbortController()

  constructor (options: LinksOptions) {
    this.#options = options
  }

  /** Starts connecting to the servers of the options. Resolves when each was tried once. */
  async start (): Promise<void> {
    await Promise.all(this.#options.servers.map(async (server) => { await this.#add(server) }))
  }

  /**
   * Connects to these servers from now on. One that is left out keeps a connection that it has, since work may go on over it, and is not
   * dialled again.
   */
  setServers (servers: readonly KnownAddress[]): void {
    if (this.#stopping.signal.aborted) return
    const wanted = new Map(servers.map((server) => [server.peerId, server]))
    for (const [id, link] of this.#links) {
      link.isWanted = wanted.has(id)
      if (!link.isWanted && !this.#options.gate.isGreeted(link.peer)) link.stopping.abort()
    }
    for (const server of servers) {
      const link = this.#links.get(server.peerId)
      if (link === undefined || link.stopping.signal.aborted) void this.#add(server)
      else link.addresses = inOrderOf(link.addresses, server.addresses)
    }
  }

  /** Keeps a connection to one more server, as `setServers` does. Resolves when it is connected, or does not seem to be within reach. */
  async reach (server: KnownAddress): Promise<void> {
    if (this.#stopping.signal.aborted) return
    const link = this.#links.get(server.peerId)
    if (link === undefined || !link.isWanted || link.stopping.signal.aborted) {
      await this.#add(server)
      return
    }
    this.dialNow()
    const { promise, resolve } = Promise.withResolvers<void>()
    const off = this.#options.gate.onGreeted(({ peerId }) => { if (peerId.equals(link.peer)) resolve() })
    const timer = setTimeout(resolve, REACH_TIMEOUT_MS)
    if (this.#options.gate.isGreeted(link.peer)) resolve()
    await promise
    off()
    clearTimeout(timer)
  }

  /** Dials at once each server that is not connected, in place of waiting for its next turn. */
  dialNow (): void {
    const waking = this.#waking
    this.#waking = new AbortController()
    waking.abort()
  }

  /** Why no server is connected; undefined while one is, or none was tried. */
  failure (): MidspanError | undefined {
    if (this.servers().some(({ connected }) => connected)) return undefined
    return [...this.#links.keys()].map((id) => this.#failures.get(id)).find((failure) => failure !== undefined)
  }

  servers (): LinkedServer[] {
    return [...this.#links.values()].filter(({ isWanted }) => isWanted)
      .map(({ peer }) => ({ peerId: peer, connected: this.#options.gate.isGreeted(peer) }))
  }

  /**
   * Gives this peer's place back at each server that can be reached, and stops: connecting again would take a new place where anybody may.
   * Returns the servers that were told; one that was not goes on counting this peer as a member.
   */
  async leave (signal: AbortSignal): Promise<string[]> {
    const { node, logger, role } = this.#options
    const connected = this.servers().filter(({ connected }) => connected).map(({ peerId }) => peerId)
    await this.stop()
    const told = await Promise.all(connected.map(async (peer) => {
      try {
        const stream = await node.dialProtocol(peer, protocolId('hello'), { signal })
        await sayHello(stream, { agent: AGENT, role, leaving: true }, signal)
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
    await Promise.all([...this.#links.values()].map(async ({ done }) => { await done }))
    this.#links.clear()
  }

  /** Begins to keep a connection. Resolves when the server was tried once. */
  async #add ({ peerId, addresses }: KnownAddress): Promise<void> {
    const before = this.#links.get(peerId)
    const tried = Promise.withResolvers<void>()
    const link: Link = {
      peer: peerIdFromString(peerId),
      addresses,
      isWanted: true,
      stopping: new AbortController(),
      done: Promise.resolve()
    }
    this.#links.set(peerId, link)
    link.done = (before?.done ?? Promise.resolve()).then(async () => { await this.#keep(link, tried.resolve) }).then(() => {
      if (this.#links.get(peerId) === link && !this.#stopping.signal.aborted) this.#links.delete(peerId)
    })
    await tried.promise
  }

  async #keep (link: Link, tried: () => void): Promise<void> {
    const { logger } = this.#options
    const signal = AbortSignal.any([this.#stopping.signal, link.stopping.signal])
    const peer = link.peer.toString()
    const backoff = new Backoff({ firstMs: FIRST_RETRY_MS, greatestMs: LAST_RETRY_MS })
    let lostMs = performance.now()
    while (!signal.aborted && link.isWanted) {
      let refused = false
      try {
        await this.#connect(link, signal)
        backoff.reset()
        this.#failures.delete(peer)
        tried()
        await this.#gone(link.peer, signal)
        lostMs = performance.now()
      } catch (error) {
        if (signal.aborted) break
        logger.warn({ peer, err: error }, 'could not connect to a server')
        this.#failures.set(peer, error instanceof MidspanError ? error : new UnreachableError(`the server ${peer}`, error))
        refused = error instanceof RefusedError
        tried()
      }
      if (!link.isWanted) break
      await backoff.wait(AbortSignal.any([signal, this.#waking.signal]), leastPauseMs(refused, performance.now() - lostMs)).catch(() => {})
    }
    this.#failures.delete(peer)
    tried()
  }

  /** Resolves when the peer's last connection is gone, or the signal aborts. */
  async #gone (peer: PeerId, signal: AbortSignal): Promise<void> {
    const { gate } = this.#options
    const { promise, resolve } = Promise.withResolvers<void>()
    const off = gate.onDisconnect((other) => { if (other.equals(peer)) resolve() })
    const stop = (): void => { resolve() }
    signal.addEventListener('abort', stop)
    if (!gate.isGreeted(peer) || signal.aborted) resolve()
    await promise
    off()
    signal.removeEventListener('abort', stop)
  }

  async #connect (link: Link, stopped: AbortSignal): Promise<void> {
    const { node, gate, role, charterHash, certificate, lead, heard } = this.#options
    const { peer } = link
    const signal = AbortSignal.any([stopped, AbortSignal.timeout(HELLO_TIMEOUT_MS)])
    const addresses = link.addresses.map((address) => multiaddr(address))
    const connection = await dialPeer(node, peer, addresses, `the server ${peer.toString()}`, signal)
    try {
      const stream = await connection.newStream(protocolId('hello'), { signal })
      const welcome = await sayHello(
        stream, { agent: AGENT, role, federation: charterHash, certificate: certificate?.(), lead: lead?.() }, signal
      )
      if (welcome.role !== 'server') throw new RefusedError(REFUSALS.role, 'role', `${peer.toString()} is a ${welcome.role}, not a server`)
      gate.greet(peer, 'server', welcome.agent)
      if (welcome.lead !== undefined) heard?.(welcome.lead)
    } catch (error) {
      connection.abort(new Error('no welcome came over this connection'))
      throw error
    }
    const answered = connection.remoteAddr.toString().split('/p2p/')[0] as string
    link.addresses = link.addresses.toSorted((a, b) => Number(b.startsWith(answered)) - Number(a.startsWith(answered)))
  }
}

/** Returns new addresses in the order of those known before, and after them those that are new. */
function inOrderOf (known: readonly string[], addresses: readonly string[]): readonly string[] {
  const kept = known.filter((address) => addresses.includes(address))
  return [...kept, ...addresses.filter((address) => !kept.includes(address))]
}
