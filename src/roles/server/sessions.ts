import type { Message } from '@bufbuild/protobuf'
import type { PeerId, Stream } from '@libp2p/interface'
import { MidspanError } from '../../errors.ts'
import { acceptChannel, type Channel, type ChannelOptions } from '../../protocols/wire/channel.ts'
import { ABORT_TIMEOUT_MS } from '../../protocols/wire/constants.ts'
import { streamClosed, withSignal } from '../../protocols/wire/wait.ts'
import type { RoleContext } from '../context.ts'
import { idleTimeoutOf } from '../message-limits.ts'

/** Thrown when a peer opens more sessions than the charter gives one client. */
export class TooManySessionsError extends MidspanError {
  constructor (limit: number) {
    super('E_TOO_MANY_SESSIONS', `a client may have ${limit} sessions at a time`, { next: 'close one first' })
  }
}

/** Thrown at peers whose sessions end because this server stops. */
export class StoppingError extends MidspanError {
  constructor () {
    super('E_STOPPING', 'the server is stopping', { next: 'try again when it is back' })
  }
}

/** Thrown at peers that would begin something at a server which is about to serve other blocks. */
export class MovingError extends MidspanError {
  constructor () {
    super('E_STOPPING', 'the server is about to serve other blocks', { next: 'other servers have those that it has now: see `midspan servers`' })
  }
}

type Serve<Out, In> = (channel: Channel<Out, In>, signal: AbortSignal) => Promise<void>

export interface SessionOptions<Out extends Message, In extends Message>
  extends Pick<ChannelOptions<Out, In>, 'outgoing' | 'incoming' | 'limits'> {
  /** Streams of the protocol that one connection may have open at once. */
  readonly maxStreams: number
  /** How long a session may wait for a message; as the charter has it for clients where this is left out. */
  readonly idleTimeoutMs?: number
  /** Sessions of the protocol that one peer may have; where this is left out they count among those that the charter gives a client. */
  readonly maxSessions?: number
}

/** How long a session waits for another one of its peer to end, where the peer has as many as it may. */
const PLACE_TIMEOUT_MS = 1_000

interface OpenSession {
  readonly peer: string
  readonly kind: string
  /** Whether it counts among the sessions that its peer may have. */
  hasPlace: boolean
  readonly ended: PromiseWithResolvers<void>
}

/** The sealed sessions that peers have with this server. */
export class Sessions {
  readonly #context: RoleContext
  readonly #signal: AbortSignal
  /** The kinds of sessions that have a limit of their own. */
  readonly #limited = new Set<string>()
  readonly #open = new Set<OpenSession>()
  /** The protocols of which no session begins now. */
  #refused: ReadonlySet<string> = new Set()

  constructor (context: RoleContext, signal: AbortSignal) {
    this.#context = context
    this.#signal = signal
  }

  list (): Array<{ readonly peer: string, readonly kind: string }> {
    return [...this.#open].map(({ peer, kind }) => ({ peer, kind }))
  }

  /** Refuses sessions of these protocols from now on, with MovingError; none where the list is empty. */
  refuse (protocols: readonly string[]): void {
    this.#refused = new Set(protocols)
  }

  /** Resolves when all sessions have ended. */
  async ended (): Promise<void> {
    await Promise.all([...this.#open].map(async ({ ended }) => { await ended.promise }))
  }

  /**
   * Serves a protocol, each session by a call of `serve`. What it throws ends the session, and the peer is told. Once the signal has
   * aborted, peers are told its reason: one that found the protocol gone would take the server for one that never had it.
   */
  async serve<Out extends Message, In extends Message> (
    protocol: string,
    options: SessionOptions<Out, In>,
    serve: Serve<Out, In>
  ): Promise<void> {
    if (options.maxSessions !== undefined) this.#limited.add(kindOf(protocol))
    await this.#context.handle(protocol, async (stream, remotePeer) => {
      const session: OpenSession = {
        peer: remotePeer.toString(), kind: kindOf(protocol), hasPlace: false, ended: Promise.withResolvers()
      }
      this.#open.add(session)
      try {
        await this.#run(stream, remotePeer, session, { ...options, protocol }, serve)
      } finally {
        // The node stops next, and would cut the connection before the client has read why.
        if (this.#signal.aborted) await streamClosed(stream, ABORT_TIMEOUT_MS)
        this.#open.delete(session)
        session.ended.resolve()
      }
    }, { maxInboundStreams: options.maxStreams })
  }

  async #run<Out extends Message, In extends Message> (
    stream: Stream,
    remotePeer: PeerId,
    session: OpenSession,
    { maxStreams: _, maxSessions, ...options }: SessionOptions<Out, In> & { readonly protocol: string },
    serve: Serve<Out, In>
  ): Promise<void> {
    const { identity, charter, charterHash, logger } = this.#context
    const parties = { identity, remotePeer, charter: charterHash }
    const channel = await acceptChannel(stream, { idleTimeoutMs: idleTimeoutOf(charter), ...options, ...parties }, this.#signal)
    try {
      if (this.#refused.has(options.protocol)) throw new MovingError()
      await this.#takePlace(session, maxSessions)
      await serve(channel, this.#signal)
    } catch (error) {
      if (error instanceof MidspanError && error.code === 'E_CHANNEL_CLOSED') {
        await channel.close()
        return
      }
      logger.info({ peer: remotePeer.toString(), protocol: options.protocol, err: error }, 'a session ended')
      channel.abort(error instanceof Error ? error : new Error(String(error)))
    }
  }

  /**
   * Takes one of the places of a session's peer. Where there is none, it waits a moment for another session of the peer to end: one that
   * the peer has closed ends here a little later. Throws TooManySessionsError.
   */
  async #takePlace (session: OpenSession, maxSessions: number | undefined): Promise<void> {
    const most = maxSessions ?? this.#context.charter.limits.maxSessionsPerClient
    const limit = AbortSignal.any([AbortSignal.timeout(PLACE_TIMEOUT_MS), this.#signal])
    for (;;) {
      const others = [...this.#open].filter(({ peer, kind, hasPlace }) =>
        hasPlace && peer === session.peer && (maxSessions === undefined ? !this.#limited.has(kind) : kind === session.kind))
      if (others.length < most) break
      this.#signal.throwIfAborted()
      if (limit.aborted) throw new TooManySessionsError(most)
      await withSignal(Promise.race(others.map(async ({ ended }) => { await ended.promise })), limit).catch(() => {}) // looked at again
    }
    session.hasPlace = true
  }
}

/** Returns a protocol's name. */
function kindOf (protocol: string): string {
  return protocol.split('/')[2] ?? protocol
}
