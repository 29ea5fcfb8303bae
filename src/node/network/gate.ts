import type { Connection, PeerId, Stream } from '@libp2p/interface'
import { RefusedError, REFUSALS } from '../../protocols/hello/index.ts'
import { ABORT_TIMEOUT_MS } from '../../protocols/wire/constants.ts'
import { ControlStream } from '../../protocols/wire/control.ts'
import { streamClosed } from '../../protocols/wire/wait.ts'
import { FailureSchema } from '../../protocols/wire/wire_pb.ts'
import type { HandleOptions, Logger, ProtocolHandler } from '../../roles/context.ts'
import { UnreachableError } from './dial.ts'
import { placeOf } from './guarded-tcp.ts'
import { roleAmong, type MidspanNode, type Role } from './libp2p.ts'

/** A peer that was let in, or that let us in, on a connection that still stands. */
export interface GreetedPeer {
  readonly peerId: PeerId
  readonly role: Role
  readonly agent: string
  readonly since: Date
}

/** Streams of one protocol on one connection; a role that needs more says so. */
const MAX_INBOUND_STREAMS = 4

/** A peer that dials says hello at once, within four round trips; one that does not gives its place to others. */
const HELLO_WITHIN_MS = 10_000

/** A peer needs one connection, and several for a moment while its network changes. */
const MAX_CONNECTIONS_PER_PEER = 4

/** How long a peer that is refused anyway may keep its stream. */
const REFUSAL_TIMEOUT_MS = 5_000

/** A stream is opened in two round trips; on a slow uplink they wait behind the tensors that are being sent. */
const OPEN_TIMEOUT_MS = 30_000

/** How long the identify protocol may take on a new connection: one round trip. */
const IDENTIFY_TIMEOUT_MS = 5_000

/** How often the peer store is cleared of strangers that were written to it while they left. */
const SWEEP_INTERVAL_MS = 60_000

/** Every protocol but hello passes through here: only peers that said hello, and were welcomed, on a standing connection get through. */
export class Gate {
  readonly #node: MidspanNode
  readonly #logger: Logger
  readonly #greeted = new Map<string, GreetedPeer>()
  /** The role that each connected peer advertises, from when it was identified. */
  readonly #advertised = new Map<string, Role | 'none'>()
  /** What waits to hear the role that a peer advertises. */
  readonly #identified = new Map<string, Set<() => void>>()
  readonly #listeners = new Set<(peer: PeerId) => void>()
  readonly #greetedListeners = new Set<(peer: GreetedPeer) => void>()

  constructor (node: MidspanNode, logger: Logger, helloWithinMs = HELLO_WITHIN_MS) {
    this.#node = node
    this.#logger = logger
    node.services.inbound.onRefused(({ address, reason }) => { logger.warn({ address, reason }, 'no room for a connection') })
    node.addEventListener('connection:open', ({ detail: connection }) => { this.#watch(connection, helloWithinMs) })
    node.addEventListener('peer:disconnect', ({ detail }) => {
      this.#advertised.delete(detail.toString())
      this.forget(detail)
      this.#forgetStored(detail)
    })
    node.addEventListener('peer:identify', ({ detail: { peerId, protocols } }) => {
      if (!this.#isConnected(peerId)) return
      this.#advertised.set(peerId.toString(), roleAmong(protocols) ?? 'none')
      for (const resume of this.#identified.get(peerId.toString()) ?? []) resume()
      this.#checkRole(peerId)
    })
    node.addEventListener('start', () => {
      const sweep = setInterval(() => { void this.#sweep() }, SWEEP_INTERVAL_MS)
      sweep.unref()
      node.addEventListener('stop', () => { clearInterval(sweep) }, { once: true })
    })
  }

  /** Lets a peer through while its connection stands; one whose connection ended meanwhile would never be forgotten again. */
  greet (peerId: PeerId, role: Role, agent: string): void {
    if (!this.#isConnected(peerId)) return
    const since = this.#greeted.get(peerId.toString())?.since ?? new Date()
    const peer = { peerId, role, agent, since }
    this.#greeted.set(peerId.toString(), peer)
    this.#node.services.inbound.greet(peerId.toString())
    this.#logger.info({ peer: peerId.toString(), role, agent }, 'greeted a peer')
    this.#checkRole(peerId)
    if (this.isGreeted(peerId)) for (const listener of this.#greetedListeners) listener(peer)
  }

  /** Lets a peer through no more, and tells whoever listens for that. */
  forget (peerId: PeerId): void {
    if (!this.#greeted.delete(peerId.toString())) return
    this.#node.services.inbound.forget(peerId.toString())
    this.#logger.info({ peer: peerId.toString() }, 'a peer is gone')
    for (const listener of this.#listeners) listener(peerId)
  }

  /**
   * Closes a peer's older connections: one that says hello again on a new connection has lost them, and what runs over them would wait
   * until they are known to be dead.
   */
  supersede (newest: Connection): void {
    for (const connection of this.#node.getConnections(newest.remotePeer)) {
      if (connection !== newest && connection.timeline.open <= newest.timeline.open) {
        connection.abort(new Error('the peer said hello on a newer connection'))
      }
    }
  }

  /** Resolves to the role that a connected peer advertises by identify, `none` where it advertises no role or does not identify itself. */
  async advertisedRole (peerId: PeerId): Promise<Role | 'none'> {
    const id = peerId.toString()
    const known = this.#advertised.get(id)
    if (known !== undefined) return known
    const { promise, resolve } = Promise.withResolvers<void>()
    const waiting = this.#identified.get(id) ?? new Set()
    this.#identified.set(id, waiting.add(resolve))
    const timer = setTimeout(resolve, IDENTIFY_TIMEOUT_MS)
    await promise
    clearTimeout(timer)
    waiting.delete(resolve)
    if (waiting.size === 0) this.#identified.delete(id)
    return this.#advertised.get(id) ?? 'none'
  }

  isGreeted (peerId: PeerId): boolean {
    return this.#greeted.has(peerId.toString())
  }

  greeted (): GreetedPeer[] {
    return [...this.#greeted.values()]
  }

  /** The role that a greeted peer has, by its id; undefined for a peer that is not greeted. */
  roleOf (peer: string): Role | undefined {
    return this.#greeted.get(peer)?.role
  }

  /** Calls back when a peer is greeted. Returns how to stop that. */
  onGreeted (listener: (peer: GreetedPeer) => void): () => void {
    this.#greetedListeners.add(listener)
    return () => { this.#greetedListeners.delete(listener) }
  }

  /** Calls back when a greeted peer is gone. Returns how to stop that. */
  onDisconnect (listener: (peer: PeerId) => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  /** Answers a protocol for greeted peers; the others are told E_NOT_ADMITTED. */
  async handle (
    protocol: string,
    handler: ProtocolHandler,
    { maxInboundStreams = MAX_INBOUND_STREAMS }: HandleOptions = {}
  ): Promise<void> {
    await this.#node.handle(protocol, async (stream, connection) => {
      if (!this.isGreeted(connection.remotePeer)) {
        await refuse(stream, connection)
        return
      }
      try {
        await handler(stream, connection.remotePeer)
      } catch (error) {
        this.#logger.warn({ peer: connection.remotePeer.toString(), protocol, err: error }, 'a stream failed')
        // A handler that told the peer why has ended its side: a reset right behind the reason could reach the peer first.
        if (stream.writeStatus !== 'writable') await streamClosed(stream, ABORT_TIMEOUT_MS)
        if (stream.status === 'open') stream.abort(error as Error)
      }
    }, { maxInboundStreams })
  }

  /** Opens a stream to a greeted peer on its newest connection. Throws UnreachableError where there is no way to it within 30 s. */
  async dial (peerId: PeerId, protocol: string, signal: AbortSignal): Promise<Stream> {
    const connection = this.#newestConnection(peerId)
    if (!this.isGreeted(peerId) || connection === undefined) throw new UnreachableError(peerId.toString())
    try {
      return await connection.newStream(protocol, { signal: AbortSignal.any([signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)]) })
    } catch (error) {
      signal.throwIfAborted()
      throw new UnreachableError(peerId.toString(), error)
    }
  }

  #newestConnection (peerId: PeerId): Connection | undefined {
    return this.#node.getConnections(peerId).filter(({ status }) => status === 'open')
      .toSorted((a, b) => b.timeline.open - a.timeline.open)[0]
  }

  /** Has a new connection say hello in time, and closes the oldest of its peer's where the peer has too many. */
  #watch (connection: Connection, helloWithinMs: number): void {
    const { remotePeer } = connection
    connection.addEventListener('close', ({ error }) => {
      if (error !== undefined) this.#logger.info({ peer: remotePeer.toString(), reason: error.message }, 'a connection broke')
    }, { once: true })
    if (connection.direction !== 'inbound') return
    const others = this.#node.getConnections(remotePeer).filter((other) => other !== connection)
      .toSorted((a, b) => a.timeline.open - b.timeline.open)
    for (const other of others.slice(0, Math.max(others.length - MAX_CONNECTIONS_PER_PEER + 1, 0))) {
      other.abort(new Error('the peer has newer connections'))
    }
    const timer = setTimeout(() => {
      if (connection.status !== 'open' || this.isGreeted(remotePeer)) return
      this.#node.services.inbound.blame(placeOf(connection))
      connection.abort(new Error('the peer said no hello'))
    }, helloWithinMs)
    timer.unref()
    connection.addEventListener('close', () => { clearTimeout(timer) }, { once: true })
  }

  /** Deletes what libp2p stored of a peer that left: it keeps 60 KB of every stranger for six hours. */
  #forgetStored (peerId: PeerId): void {
    void this.#node.peerStore.delete(peerId).catch((error: unknown) => {
      this.#logger.debug({ peer: peerId.toString(), err: error }, 'could not forget a peer')
    })
  }

  /** Deletes stored peers that are not connected: a stream that was being opened while its peer left stored the peer again. */
  async #sweep (): Promise<void> {
    for (const { id } of await this.#node.peerStore.all().catch(() => [])) if (!this.#isConnected(id)) this.#forgetStored(id)
  }

  #isConnected (peerId: PeerId): boolean {
    return this.#node.getConnections(peerId).length > 0
  }

  /** What a peer said in its hello and what it advertises must agree. */
  #checkRole (peerId: PeerId): void {
    const said = this.#greeted.get(peerId.toString())?.role
    const advertises = this.#advertised.get(peerId.toString())
    if (said === undefined || advertises === undefined || said === advertises) return
    this.#logger.warn({ peer: peerId.toString(), said, advertises }, 'a peer does not have the role it said')
    this.forget(peerId)
    void this.#node.hangUp(peerId).catch((error: unknown) => {
      this.#logger.warn({ peer: peerId.toString(), err: error }, 'could not hang up')
    })
  }
}

/**
 * Refuses a stream. Waits for the peer's first message before it does: a stream that is reset before its protocol is agreed on carries no
 * refusal.
 */
async function refuse (stream: Stream, { remotePeer }: Connection): Promise<void> {
  const control = new ControlStream(stream, { outgoing: FailureSchema, incoming: FailureSchema })
  await control.read(AbortSignal.timeout(REFUSAL_TIMEOUT_MS)).catch(() => {}) // the answer is the same whatever the message is
  control.abort(
    new RefusedError(REFUSALS.notAdmitted, 'peer', `${remotePeer.toString()} is not admitted to this federation, or has not said hello`)
  )
}
