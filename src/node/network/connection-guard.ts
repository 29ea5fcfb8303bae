import { yamux } from '@chainsafe/libp2p-yamux'
import type { MessageStream, Stream, StreamMuxerFactory } from '@libp2p/interface'
import type { Uint8ArrayList } from 'uint8arraylist'
import { LeakyBucket, type EventRate } from './leaky-bucket.ts'

type MuxerOptions = NonNullable<Parameters<typeof yamux>[0]>

const KiB = 2 ** 10
const MiB = 2 ** 20

/** What one connection may cost this side. */
export interface GuardLimits {
  /** Bytes that the peer may send in all. */
  readonly receivedBytes: number
  /** Bytes that wait to be sent because the peer does not read. */
  readonly unsentBytes: number
  /** Streams that the peer may open. */
  readonly streams: EventRate
  /** Pings and refused streams that are answered: each answer costs as much as a message. */
  readonly answers: EventRate
}

/** A peer that has not been greeted identifies itself, says hello and is refused: 20 KiB over five streams, each of which may be reset. */
export const STRANGER_LIMITS: GuardLimits = {
  receivedBytes: 64 * KiB, unsentBytes: 256 * KiB, streams: { atOnce: 40, perSecond: 5 }, answers: { atOnce: 40, perSecond: 5 }
}

/** A member's sessions may each have a record of 1 MiB on the way when its connection stalls. */
export const MEMBER_LIMITS: GuardLimits = {
  receivedBytes: Infinity, unsentBytes: 32 * MiB, streams: { atOnce: 200, perSecond: 50 }, answers: { atOnce: 200, perSecond: 20 }
}

/** What a queued piece counts for at least: a frame of 12 bytes takes this much memory while it waits. */
const MIN_PIECE_BYTES = 256

/** Streams that a peer may have open, or half open, on one connection: what all protocols together allow it. */
export const MAX_INBOUND_STREAMS = 32

/** Why a connection was aborted whose peer cost this side more than a peer may. */
export class CostlyPeerError extends Error {
  override readonly name = 'CostlyPeerError'

  constructor (what: string) {
    super(`the peer ${what}`)
  }
}

/** Holds one connection to its limits; those of members apply as soon as `isMember` says so. */
export class ConnectionGuard {
  readonly #isMember: () => boolean
  readonly #end: (error: Error) => void
  readonly #now: () => number
  readonly #streams: LeakyBucket
  readonly #answers: LeakyBucket
  #receivedBytes = 0
  #unsentBytes = 0
  #ended = false

  constructor (isMember: () => boolean, end: (error: Error) => void, now: () => number = () => performance.now()) {
    this.#isMember = isMember
    this.#end = end
    this.#now = now
    this.#streams = new LeakyBucket(now())
    this.#answers = new LeakyBucket(now())
  }

  /** Counts bytes that came in. */
  received (byteLength: number): void {
    this.#receivedBytes += byteLength
    if (this.#receivedBytes > STRANGER_LIMITS.receivedBytes && this.#receivedBytes > this.#limits().receivedBytes)
      this.#exceed(`sent ${this.#receivedBytes} bytes before it was greeted`)
  }

  /** Counts a piece that the transport did not take at once. */
  queued (byteLength: number): void {
    this.#unsentBytes += Math.max(byteLength, MIN_PIECE_BYTES)
    if (this.#unsentBytes > STRANGER_LIMITS.unsentBytes && this.#unsentBytes > this.#limits().unsentBytes)
      this.#exceed('does not read what it is sent')
  }

  /** Notes how many bytes are left to send after the transport took some. */
  drained (unsentBytes: number): void {
    this.#unsentBytes = unsentBytes
  }

  /** Counts a stream that the peer opened. */
  opened (): void {
    if (this.#streams.overflows(this.#now(), this.#limits().streams)) this.#exceed('opens streams too often')
  }

  /** Counts a frame that only answers the peer: a ping's answer, or a stream's reset. */
  answered (): void {
    if (this.#answers.overflows(this.#now(), this.#limits().answers)) this.#exceed('asks for answers too often')
  }

  /** Whether the connection was ended: what still comes over it is not worth reading. */
  get ended (): boolean {
    return this.#ended
  }

  #limits (): GuardLimits {
    return this.#isMember() ? MEMBER_LIMITS : STRANGER_LIMITS
  }

  #exceed (what: string): void {
    if (this.#ended) return
    this.#ended = true
    this.#end(new CostlyPeerError(what))
  }
}

/** The guards of connections, by the secured connection that a muxer runs on. */
const guards = new WeakMap<MessageStream, ConnectionGuard>()

/** Has a guard watch what passes over a secured connection and the transport below it. */
export function guardConnection (transport: MessageStream, secured: MessageStream, guard: ConnectionGuard): void {
  guards.set(secured, guard)
  const send = secured.send.bind(secured)
  secured.send = (data) => {
    const hasRoom = send(data)
    if (isAnswer(data)) guard.answered()
    if (!hasRoom) guard.queued(data.byteLength)
    return hasRoom
  }
  transport.addEventListener('message', ({ data }) => { guard.received(data.byteLength) })
  transport.addEventListener('drain', () => { guard.drained(secured.writeBufferLength + transport.writeBufferLength) })
}

const MUXER_HEADER_BYTES = 12
const PING = 2
const WINDOW_UPDATE = 1
const ACK = 2
const RST = 8

/** Whether bytes are a yamux frame (version, type, two bytes of flags) that answers a ping or resets a stream. */
function isAnswer (data: Uint8Array | Uint8ArrayList): boolean {
  if (!(data instanceof Uint8Array) || data.byteLength !== MUXER_HEADER_BYTES) return false
  return (data[1] === PING && data[3] === ACK) || (data[1] === WINDOW_UPDATE && data[3] === RST)
}

/** What guardedYamux replaces of a muxer, of which the types show nothing. */
interface MuxerParts {
  onRemoteStream: (stream: Stream) => void
  handleFrame: (frame: unknown) => void
}

/**
 * Yamux whose inbound streams are bounded, and counted by the guard of their connection. Frames that came in one piece with the one for
 * which the guard ended the connection are passed over.
 */
export function guardedYamux (options: MuxerOptions): () => StreamMuxerFactory {
  const create = yamux({ ...options, maxInboundStreams: MAX_INBOUND_STREAMS })
  return () => {
    const factory = create()
    const createStreamMuxer = factory.createStreamMuxer.bind(factory)
    factory.createStreamMuxer = (connection) => {
      const muxer = createStreamMuxer(connection)
      const guard = guards.get(connection)
      if (guard === undefined) return muxer
      const parts = muxer as unknown as MuxerParts
      const onRemoteStream = parts.onRemoteStream.bind(muxer)
      parts.onRemoteStream = (stream) => {
        onRemoteStream(stream)
        guard.opened()
      }
      const handleFrame = parts.handleFrame.bind(muxer)
      parts.handleFrame = (frame) => { if (!guard.ended) handleFrame(frame) }
      return muxer
    }
    return factory
  }
}
