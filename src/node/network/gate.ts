import type { Connection, PeerId, Stream } from '@libp2p/interface'
import { isDefect, MidspanError } from '../../errors.ts'
import { RefusedError, REFUSALS } from '../../protocols/hello/index.ts'
import { ControlStream } from '../../protocols/wire/control.ts'
import { FailureSchema } from '../../protocols/wire/wire_pb.ts'
import type { HandleOptions, Logger, ProtocolHandler } from '../../roles/context.ts'
import { roleAmong, type MidspanNode, type Role } from './libp2p.ts'

/** A peer that was let in, or that let us in, on a connection that still stands. */
export interface GreetedPeer {
  readonly peerId: PeerId
  readonly role: Role
  readonly agent: string
  readonly since: Date
}

/** There is no way to a peer now. */
export class UnreachableError extends MidspanError {
  static readonly code = 'E_UNREACHABLE'

  constructor (what: string, cause?: unknown) {
    super(UnreachableError.code, `${what} cannot be reached${cause instanceof Error ? `: ${cause.message.split('\n')[0]}` : ''}`, {
      next: 'check that it runs, and that its address can be reached from here',
      cause,
      // A peer that does not speak a protocol will not learn it by being asked again.
      retryable: !isDefect(cause) && !(cause instanceof Error && cause.name === 'UnsupportedProtocolError')
    })
  }
}

/** Streams of one protocol on one connection; a role that needs more says so. */
const MAX_INBOUND_STREAMS = 4

/**
 * A peer that dials says hello at once; one that does not keeps its connection no longer than this, or strangers could take all there are.
 */
const HELLO_WITHIN_MS = 30_000

/** A peer needs one connection, and for a moment two when it comes back before its old one is known to be broken. */
const MAX_CONNECTIONS_PER_PEER = 4

/** How long a peer that is refused anyway may keep its stream. */
const REFUSAL_TIMEOUT_MS = 5_000

/** Every protocol but hello passes through here: only peers that said hello, and were welcomed, on a standing connection get through. */
export class Gate {
  readonly #node: MidspanNode
  readonly #logger: Logger
  readonly #greeted = new Map<string, GreetedPeer>()
  /** What connected peers advertise, as soon as they were identified. */
  readonly #advertised = new Map<string, Role | 'none'>()
  readonly #listeners = new Set<(peer: PeerId) => void>()

  constructor (node: MidspanNode, logger: Logger, helloWithinMs = HELLO_WITHIN_MS) {
    this.#node = node
    this.#logger = logger
    node.addEventListener('connection:open', ({ detail: connection }) => {
      if (connection.direction !== 'inbound') return
      const { remotePeer } = connection
      if (node.getConnections(remotePeer).indexOf(connection) >= MAX_CONNECTIONS_PER_PEER) {
        logger.warn({ peer: remotePeer.toString() }, 'a peer has too many connections')
        connection.abort(new Error('too many connections'))
        return
      }
      const timer = setTimeout(() => {
        if (connection.status === 'open' && !this.isGreeted(remotePeer)) connection.abort(new Error('the peer said no hello'))
      }, helloWithinMs)
      timer.unref()
      connection.addEventListener('close', () => { clearTimeout(timer) }, { once: true })
    })
    node.addEventListener('peer:disconnect', ({ detail }) => {
      this.#advertised.delete(detail.toString())
      this.forget(detail)
    })
    node.addEventListener('peer:identify', ({ detail: { peerId, protocols } }) => {
      if (!this.#isConnected(peerId)) return
      this.#advertised.set(peerId.toString(), roleAmong(protocols) ?? 'none')
      this.#checkRole(peerId)
    })
  }

  /** Lets a peer through while its connection stands; one whose connection ended meanwhile would never be forgotten again. */
  greet (peerId: PeerId, role: Role, agent: string): void {
    if (!this.#isConnected(peerId)) return
    const since = this.#greeted.get(peerId.toString())?.since ?? new Date()
    this.#greeted.set(peerId.toString(), { peerId, role, agent, since })
    this.#logger.info({ peer: peerId.toString(), role, agent }, 'greeted a peer')
    this.#checkRole(peerId)
  }

  /** Lets a peer through no more, and tells whoever listens for that. */
  forget (peerId: PeerId): void {
    if (!this.#greeted.delete(peerId.toString())) return
    this.#logger.info({ peer: peerId.toString() }, 'a peer is gone')
    for (const listener of this.#listeners) listener(peerId)
  }

  isGreeted (peerId: PeerId): boolean {
    return this.#greeted.has(peerId.toString())
  }

  greeted (): GreetedPeer[] {
    return [...this.#greeted.values()]
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
        if (stream.status === 'open') stream.abort(error as Error)
      }
    }, { maxInboundStreams })
  }

  async unhandle (protocol: string): Promise<void> {
    await this.#node.unhandle(protocol)
  }

  /** Opens a stream to a greeted peer. Throws UnreachableError where there is none. */
  async dial (peerId: PeerId, protocol: string, signal: AbortSignal): Promise<Stream> {
    if (!this.isGreeted(peerId)) throw new UnreachableError(peerId.toString())
    try {
      return await this.#node.dialProtocol(peerId, protocol, { signal })
    } catch (error) {
      signal.throwIfAborted()
      throw new UnreachableError(peerId.toString(), error)
    }
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

/** Waits for the peer's first words: a stream that is reset before its protocol is agreed on carries no refusal. */
async function refuse (stream: Stream, { remotePeer }: Connection): Promise<void> {
  const control = new ControlStream(stream, { outgoing: FailureSchema, incoming: FailureSchema })
  await control.read(AbortSignal.timeout(REFUSAL_TIMEOUT_MS)).catch(() => {}) // whatever it says
  control.abort(
    new RefusedError(REFUSALS.notAdmitted, 'peer', `${remotePeer.toString()} is not admitted to this federation, or has not said hello`)
  )
}
