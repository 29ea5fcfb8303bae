import { create } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { containsSpan, type Span } from '../../span.ts'
import { STALL_TIMEOUT_MS } from '../wire/constants.ts'
import { ControlStream } from '../wire/control.ts'
import { BadMessageError } from '../wire/errors.ts'
import { StreamSource } from '../wire/source.ts'
import { plainText } from '../wire/text.ts'
import { verifyAnnouncement, type Announcement, type DirectoryScope } from './announcement.ts'
import { MAX_REASON_CHARS, MAX_SERVERS } from './constants.ts'
import { MemberMessageSchema, type MemberMessage, type Move, type Update } from './directory_pb.ts'
import { asMember } from './messages.ts'

/** What the coordinator tells a member: changes of the directory, and what the member needs to be let in elsewhere. */
export interface DirectoryUpdate {
  readonly instance: Uint8Array
  readonly version: number
  /** Whether `entries` are all entries, and not those alone that changed. */
  readonly complete: boolean
  readonly entries: readonly Announcement[]
  /** Peer ids. */
  readonly removed: readonly string[]
  /** The member's new certificate, not verified; undefined where it has not changed. */
  readonly certificate: Uint8Array | undefined
  /** The list of revoked certificates, not verified; undefined where it has not changed. */
  readonly revocations: Uint8Array | undefined
  /** The member's mandate to lead, not verified; undefined where it has not changed. */
  readonly mandate?: Uint8Array | undefined
  /** Where a server that chose its blocks by itself is to serve others now; undefined where it is to stay. */
  readonly move?: AskedMove | undefined
}

/** Other blocks for a server. */
export interface AskedMove {
  readonly to: Span
  /** Why, for people. */
  readonly reason: string
  /** Whether nobody is served until then: what is under way, which waits for the blocks, does not keep the server. */
  readonly isUrgent: boolean
}

/** A member's stream to the coordinator. Construct it before the first await. */
export class DirectoryStream {
  readonly #control: ControlStream<MemberMessage, Update>
  readonly #scope: DirectoryScope

  constructor (stream: Stream, scope: DirectoryScope) {
    // Nothing comes while nothing changes: the node measures whether the connection lives.
    this.#control = new ControlStream(stream, asMember, new StreamSource(stream, Infinity, STALL_TIMEOUT_MS))
    this.#scope = scope
  }

  /** Says what the member knows. The coordinator answers with what it lacks, and goes on with what changes. */
  async sync ({ instance, version }: { readonly instance: Uint8Array, readonly version: number }, signal?: AbortSignal): Promise<void> {
    await this.#write({ case: 'sync', value: { $typeName: 'midspan.directory.v1.Sync', instance, version: BigInt(version) } }, signal)
  }

  async announce ({ bytes }: Announcement, signal?: AbortSignal): Promise<void> {
    await this.#write({ case: 'announcement', value: bytes }, signal)
  }

  /** Says that this server stops. */
  async leave (signal?: AbortSignal): Promise<void> {
    await this.#write({ case: 'leaving', value: { $typeName: 'midspan.directory.v1.Leaving' } }, signal)
    await this.close(signal)
  }

  /** Reads the next update. Throws AnnouncementError for an entry that is none, BadMessageError, and the wire's errors. */
  async read (signal?: AbortSignal): Promise<DirectoryUpdate> {
    const { message } = await this.#control.read(signal)
    const { entries, removed, certificate, revocations, mandate, move, instance, version, complete } = message
    if (entries.length > MAX_SERVERS) throw new BadMessageError(`a directory of ${entries.length} servers`)
    const announcements = await Promise.all(entries.map(async (bytes) => await verifyAnnouncement(bytes, this.#scope)))
    return {
      instance,
      version: Number(version),
      complete,
      entries: announcements,
      removed,
      certificate: certificate.byteLength === 0 ? undefined : certificate,
      revocations: revocations.byteLength === 0 ? undefined : revocations,
      mandate: mandate.byteLength === 0 ? undefined : mandate,
      move: move === undefined ? undefined : moveOf(move, this.#scope)
    }
  }

  /** Ends the stream in agreement. */
  async close (signal?: AbortSignal): Promise<void> {
    await this.#control.close(signal)
  }

  /** Tells the coordinator why, and resets the stream. */
  abort (error: Error): void {
    this.#control.abort(error)
  }

  async #write (message: MemberMessage['message'], signal: AbortSignal | undefined): Promise<void> {
    await this.#control.write(create(MemberMessageSchema, { message }), undefined, signal)
  }
}

/** Reads where a server is to move. Throws BadMessageError. */
function moveOf ({ to, reason, isUrgent }: Move, { middle }: DirectoryScope): AskedMove {
  if (to === undefined || to.first >= to.end || !containsSpan(middle, to)) throw new BadMessageError('a server is to serve blocks that are none')
  if (reason.length > MAX_REASON_CHARS) throw new BadMessageError('why a server is to move is too long')
  return { to: { first: to.first, end: to.end }, reason: plainText(reason), isUrgent }
}
