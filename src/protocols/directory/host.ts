import { create } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { isHalfSpent, type Certificate } from '../hello/certificate.ts'
import { AttemptLimit } from '../hello/rate.ts'
import type { Revocations } from '../hello/revocations.ts'
import { STALL_TIMEOUT_MS } from '../wire/constants.ts'
import { ControlStream } from '../wire/control.ts'
import { BadMessageError, ChannelClosedError, ChannelResetError } from '../wire/errors.ts'
import { StreamSource } from '../wire/source.ts'
import { verifyAnnouncement, type DirectoryScope } from './announcement.ts'
import { MAX_MESSAGES_PER_MINUTE, MAX_REASON_CHARS } from './constants.ts'
import type { Change, Directory } from './directory.ts'
import { UpdateSchema, type MemberMessage, type Update } from './directory_pb.ts'
import { AnnouncementError, DirectoryRateError } from './errors.ts'
import type { AskedMove } from './member.ts'
import { asHost } from './messages.ts'

export interface DirectoryHostOptions {
  readonly directory: Directory
  readonly scope: DirectoryScope
  /** The role of a connected member. */
  readonly roleOf: (peer: string) => 'client' | 'server' | undefined
  /** Makes a certificate for a member. */
  readonly certify: (peer: string, role: 'client' | 'server') => Promise<Certificate>
  /** The list of revoked certificates as it is now. */
  readonly revocations: () => Promise<Revocations>
  /** The mandate of a server that may lead one day. */
  readonly mandate?: (peer: string) => Uint8Array | undefined
  /** Where a server that chose its blocks by itself is to serve others now. */
  readonly move?: (peer: string) => AskedMove | undefined
  /** Called when a member's announcement, or its leaving, changed the directory. */
  readonly onChanged: (change: Exclude<Change, 'nothing'>) => void
  /** Milliseconds between two updates of a member at least, by what changed: tests shorten them. */
  readonly pauseMs?: Readonly<Record<Exclude<Change, 'nothing'>, number>>
}

/** Servers that come and go together are told together; how much they have to do changes all the time and is told less often. */
const PAUSE_MS = { servers: 200, load: 5_000 } as const

const MINUTE_MS = 60_000

/** Gives members the directory, takes in what servers announce, and tells members what changed while their streams are open. */
export class DirectoryHost {
  readonly #options: DirectoryHostOptions
  readonly #rate = new AttemptLimit(MAX_MESSAGES_PER_MINUTE, MINUTE_MS)
  /** Open streams, one a member. */
  readonly #sessions = new Map<string, MemberSession>()

  constructor (options: DirectoryHostOptions) {
    this.#options = options
  }

  /**
   * Serves a member's stream until it ends or breaks. A newer stream of the same member takes the place of an older one. Throws
   * AnnouncementError, DirectoryRateError and the wire's errors after telling the peer.
   */
  async serve (stream: Stream, peer: string): Promise<void> {
    const session = new MemberSession(stream, peer, this.#options)
    this.#sessions.get(peer)?.end(new ChannelClosedError())
    this.#sessions.set(peer, session)
    try {
      for (;;) {
        const message = await session.read()
        if (message === undefined) break
        if (!this.#rate.allow(peer)) throw new DirectoryRateError()
        await this.#take(session, peer, message)
      }
      session.end()
    } catch (error) {
      session.end(error as Error)
      // A member's connection may break at any time.
      if (!(error instanceof ChannelResetError)) throw error
    } finally {
      if (this.#sessions.get(peer) === session) this.#sessions.delete(peer)
    }
  }

  /** Tells the members whose streams are open what changed. */
  notify (change: Change): void {
    if (change === 'nothing') return
    for (const session of this.#sessions.values()) session.due(change)
  }

  /** Ends the streams of a member that has no place any more. */
  forget (peer: string): void {
    this.#sessions.get(peer)?.end(new ChannelClosedError())
  }

  async #take (session: MemberSession, peer: string, { message }: MemberMessage): Promise<void> {
    const { directory, scope, roleOf, onChanged } = this.#options
    switch (message.case) {
      case 'sync':
        session.sync(message.value.instance, Number(message.value.version))
        return
      case 'announcement': {
        if (roleOf(peer) !== 'server') throw new AnnouncementError('peer', `${peer} is no server`)
        const change = directory.announce(await verifyAnnouncement(message.value, scope), peer)
        if (change !== 'nothing') onChanged(change)
        this.notify(change)
        return
      }
      case 'leaving':
        if (!directory.remove(peer)) return
        onChanged('servers')
        this.notify('servers')
        return
      default:
        throw new BadMessageError('a message about the directory that says nothing')
    }
  }
}

/** One member's stream: what it knows, and what it is to be told next. */
class MemberSession {
  readonly #options: DirectoryHostOptions
  readonly #control: ControlStream<Update, MemberMessage>
  readonly #peer: string
  readonly #pauseMs: Readonly<Record<Exclude<Change, 'nothing'>, number>>
  /** What the member knows; undefined until it said so. */
  #known: { instance: Uint8Array, version: number } | undefined
  #certificate: Certificate | undefined
  #revocations: number | undefined
  #mandate: Uint8Array | undefined
  #move: AskedMove | undefined
  #lastMs = -Infinity
  #dueMs = Infinity
  #timer: NodeJS.Timeout | undefined
  #isWriting = false
  /** Whether the member waits for an answer. */
  #isAsked = false
  #hasEnded = false

  constructor (stream: Stream, peer: string, options: DirectoryHostOptions) {
    // Between two messages of a member hours may pass: the node measures whether its connection lives.
    this.#control = new ControlStream(stream, asHost, new StreamSource(stream, Infinity, STALL_TIMEOUT_MS))
    this.#peer = peer
    this.#options = options
    this.#pauseMs = options.pauseMs ?? PAUSE_MS
  }

  /** Reads the next message; undefined at the end of the stream. */
  async read (): Promise<MemberMessage | undefined> {
    try {
      return (await this.#control.read()).message
    } catch (error) {
      if (error instanceof ChannelClosedError) return undefined
      throw error
    }
  }

  /** Takes note of what the member knows, and answers also where there is nothing to tell. */
  sync (instance: Uint8Array, version: number): void {
    this.#known = { instance, version }
    this.#isAsked = true
    this.#writeAt(-Infinity)
  }

  due (change: Exclude<Change, 'nothing'>): void {
    if (this.#known !== undefined) this.#writeAt(this.#lastMs + this.#pauseMs[change])
  }

  end (error?: Error): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    clearTimeout(this.#timer)
    if (error === undefined) void this.#control.close().catch(() => {})
    else this.#control.abort(error)
  }

  /** Writes an update at a time, or at an earlier one that was set before. While one is being written, the next one waits for it. */
  #writeAt (timeMs: number): void {
    if (this.#hasEnded || timeMs >= this.#dueMs) return
    clearTimeout(this.#timer)
    this.#dueMs = timeMs
    if (this.#isWriting) return
    this.#timer = setTimeout(() => { void this.#write() }, Math.max(timeMs - performance.now(), 0))
    this.#timer.unref()
  }

  async #write (): Promise<void> {
    this.#isWriting = true
    this.#dueMs = Infinity
    this.#lastMs = performance.now()
    try {
      const update = await this.#next()
      if (update !== undefined && !this.#hasEnded) await this.#control.write(update)
    } catch (error) {
      this.end(error as Error)
    } finally {
      this.#isWriting = false
    }
    const dueMs = this.#dueMs
    this.#dueMs = Infinity
    this.#writeAt(dueMs)
  }

  async #next (): Promise<Update | undefined> {
    const { directory, roleOf } = this.#options
    const role = roleOf(this.#peer)
    if (role === undefined) return undefined
    const certificate = await this.#newCertificate(role)
    const revocations = role === 'server' ? await this.#newRevocations() : undefined
    const mandate = role === 'server' ? this.#newMandate() : undefined
    // From here on nothing is waited for: what the member said meanwhile counts.
    const move = role === 'server' ? this.#options.move?.(this.#peer) : undefined
    const [known, isAsked] = [this.#known, this.#isAsked]
    this.#isAsked = false
    if (known === undefined) return undefined
    const { entries, removed, ...delta } = directory.since(known.instance, known.version)
    const isEmpty = !delta.complete && entries.length + removed.length === 0 && certificate === undefined &&
      revocations === undefined && mandate === undefined && move === this.#move
    if (isEmpty && !isAsked) return undefined
    this.#known = { instance: delta.instance, version: delta.version }
    this.#move = move
    return create(UpdateSchema, {
      instance: delta.instance,
      version: BigInt(delta.version),
      complete: delta.complete,
      entries: entries.map(({ bytes }) => bytes),
      removed: [...removed],
      certificate: certificate ?? new Uint8Array(0),
      revocations: revocations ?? new Uint8Array(0),
      mandate: mandate ?? new Uint8Array(0),
      ...(move === undefined ? {} : { move: { ...move, reason: move.reason.slice(0, MAX_REASON_CHARS) } })
    })
  }

  async #newCertificate (role: 'client' | 'server'): Promise<Uint8Array | undefined> {
    if (this.#certificate !== undefined && !isHalfSpent(this.#certificate, Date.now())) return undefined
    this.#certificate = await this.#options.certify(this.#peer, role)
    return this.#certificate.bytes
  }

  #newMandate (): Uint8Array | undefined {
    const mandate = this.#options.mandate?.(this.#peer)
    if (mandate === this.#mandate) return undefined
    this.#mandate = mandate
    return mandate
  }

  async #newRevocations (): Promise<Uint8Array | undefined> {
    const { version, bytes } = await this.#options.revocations()
    if (version === this.#revocations) return undefined
    this.#revocations = version
    return bytes
  }
}
