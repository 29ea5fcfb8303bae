import { create, toBinary } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { fromString } from 'uint8arrays/from-string'
import { toString } from 'uint8arrays/to-string'
import { spanText, type Span } from '../../span.ts'
import { FEDERATION_ID_BYTES } from '../charter/constants.ts'
import { isDate } from '../hello/clock.ts'
import { parseMessage } from '../wire/parse.ts'
import { isSignedBy, parseRecord, signRecord } from '../wire/signed-record.ts'
import { plainText } from '../wire/text.ts'
import {
  ANNOUNCEMENT_LIFETIME_MS,
  MAX_ADDRESS_BYTES,
  MAX_ADDRESSES,
  MAX_ANNOUNCEMENT_BYTES,
  MAX_FORMAT_CHARS,
  MAX_PROTOCOLS,
  MAX_REASON_CHARS
} from './constants.ts'
import { AnnouncementBodySchema, type AnnouncementBody, type Load, type Placement } from './directory_pb.ts'
import { AnnouncementError } from './errors.ts'

/** How much a server has to do, and how fast it is, as it says itself. */
export interface AnnouncedLoad {
  /** Sealed sessions that are open. */
  readonly sessions: number
  /** Tokens that wait for a run. */
  readonly queuedTokens: number
  /** Bytes of KV cache that may still be given out. */
  readonly freeCacheBytes: number
  /** Measured tokens a second through its whole span, many at a time; 0 while nothing was measured. */
  readonly prefillTokensPerSecond: number
  /** Measured tokens a second through its whole span, one at a time; 0 while nothing was measured. */
  readonly decodeTokensPerSecond: number
}

/** How a server came by its blocks that chose them by itself, and moves to others where it is needed. */
export interface AnnouncedPlacement {
  /** Device memory that it may use. */
  readonly memoryBytes: number
  /** What its device keeps frozen matrices as. */
  readonly weights: string
  /** Whether it is about to serve other blocks, and begins nothing new. */
  readonly isDraining: boolean
  /** Why it serves the blocks that it serves, or is about to serve others, for people; empty where it joined with them. */
  readonly reason: string
}

/** What a server says of itself, signed by its identity. */
export interface Announcement {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The server's peer id. */
  readonly peer: string
  /** The blocks that it serves. */
  readonly span: Span
  /** Multiaddrs, without the peer's id. */
  readonly addresses: readonly string[]
  /** Name and version of the release. */
  readonly agent: string
  /** Versions of the protocols that it speaks, by name. */
  readonly protocols: Readonly<Record<string, string>>
  /** Undefined where it does not say. */
  readonly load: AnnouncedLoad | undefined
  /** Undefined where it stays with its blocks: its operator named them, or it could not move a short time ago. */
  readonly placement?: AnnouncedPlacement | undefined
  /** Greater than that of the announcement before it. */
  readonly sequence: number
  readonly issuedAtMs: number
  readonly expiresAtMs: number
  /** The signed announcement as it is sent. */
  readonly bytes: Uint8Array
}

const SIGNATURE_DOMAIN = 'midspan/announcement/1\0'
/** Makes an announcement, signed by the server's key. Addresses beyond the first eight are left out. */
export async function createAnnouncement (
  details: Omit<Announcement, 'peer' | 'issuedAtMs' | 'expiresAtMs' | 'bytes'>,
  key: PrivateKey,
  nowMs = Date.now()
): Promise<Announcement> {
  const peer = peerIdFromPrivateKey(key).toString()
  const addresses = details.addresses.map((address) => withoutPeer(multiaddr(address))).slice(0, MAX_ADDRESSES)
  const expiresAtMs = nowMs + ANNOUNCEMENT_LIFETIME_MS
  const { federation, span, agent, protocols, load, placement, sequence } = details
  const body = toBinary(AnnouncementBodySchema, create(AnnouncementBodySchema, {
    federation: fromString(federation, 'hex'),
    peer,
    span,
    addresses: addresses.map(({ bytes }) => bytes),
    agent,
    protocols: { ...protocols },
    ...(load === undefined ? {} : {
      load: {
        sessions: load.sessions,
        queuedTokens: wholeNumber(load.queuedTokens),
        freeCacheBytes: wholeNumber(load.freeCacheBytes),
        prefillTokensPerSecond: load.prefillTokensPerSecond,
        decodeTokensPerSecond: load.decodeTokensPerSecond
      }
    }),
    ...(placement === undefined ? {} : {
      placement: { ...placement, memoryBytes: wholeNumber(placement.memoryBytes), reason: placement.reason.slice(0, MAX_REASON_CHARS) }
    }),
    sequence: BigInt(sequence),
    issuedAtMs: BigInt(nowMs),
    expiresAtMs: BigInt(expiresAtMs)
  }))
  const bytes = await signRecord(SIGNATURE_DOMAIN, body, key)
  return { ...details, peer, addresses: addresses.map(String), issuedAtMs: nowMs, expiresAtMs, bytes }
}

/** Which announcements belong into a directory. */
export interface DirectoryScope {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The blocks that servers serve together. */
  readonly middle: Span
}

/** Reads an announcement that nobody vouches for. Throws AnnouncementError. */
export async function verifyAnnouncement (bytes: Uint8Array, { federation, middle }: DirectoryScope): Promise<Announcement> {
  if (bytes.byteLength > MAX_ANNOUNCEMENT_BYTES) throw new AnnouncementError('invalid', 'it is too long')
  const { record, body } = decode(bytes)
  const announcement = { ...fieldsOf(body), bytes }
  if (!await isSignedBy(announcement.peer, SIGNATURE_DOMAIN, record))
    throw new AnnouncementError('signature', 'it is not signed by the server that it names')
  if (announcement.federation !== federation) throw new AnnouncementError('federation', 'it is of another federation')
  const { span: { first, end } } = announcement
  if (first >= end || first < middle.first || end > middle.end)
    throw new AnnouncementError('span', `the blocks ${spanText({ first, end })} are not within ${spanText(middle)}, which servers serve`)
  return announcement
}

function decode (bytes: Uint8Array) {
  try {
    const record = parseRecord(bytes)
    return { record, body: parseMessage(AnnouncementBodySchema, record.body, 'an announcement') }
  } catch {
    throw new AnnouncementError('invalid', 'it cannot be read')
  }
}

function fieldsOf (body: AnnouncementBody): Omit<Announcement, 'bytes'> {
  const { federation, peer, span, addresses, agent, protocols, load, placement } = body
  const [sequence, issuedAtMs, expiresAtMs] = [body.sequence, body.issuedAtMs, body.expiresAtMs].map(Number) as [number, number, number]
  if (federation.byteLength !== FEDERATION_ID_BYTES) throw new AnnouncementError('invalid', 'its federation is not a SHA-256')
  if (span === undefined) throw new AnnouncementError('span', 'it names no blocks')
  if (addresses.length > MAX_ADDRESSES) throw new AnnouncementError('invalid', `it has more than ${MAX_ADDRESSES} addresses`)
  if (Object.keys(protocols).length > MAX_PROTOCOLS) throw new AnnouncementError('invalid', `it names more than ${MAX_PROTOCOLS} protocols`)
  if (!Number.isSafeInteger(sequence) || !isDate(issuedAtMs) || !isDate(expiresAtMs))
    throw new AnnouncementError('invalid', 'its numbers are none')
  return {
    federation: toString(federation, 'hex'),
    peer,
    span: { first: span.first, end: span.end },
    addresses: addresses.map(addressOf),
    agent: plainText(agent),
    protocols: Object.fromEntries(Object.entries(protocols).map(([name, version]) => [plainText(name), plainText(version)])),
    load: load === undefined ? undefined : loadOf(load),
    ...(placement === undefined ? {} : { placement: placementOf(placement) }),
    sequence,
    issuedAtMs,
    expiresAtMs
  }
}

/** Reads an address. One that names a peer could lead somebody who dials it to another one, or through a relay that nobody chose. */
function addressOf (bytes: Uint8Array): string {
  if (bytes.byteLength > MAX_ADDRESS_BYTES) throw new AnnouncementError('invalid', 'an address is too long')
  try {
    const address = multiaddr(bytes)
    if (!address.getComponents().some(({ name }) => name === 'p2p' || name === 'p2p-circuit')) return address.toString()
  } catch {
    throw new AnnouncementError('invalid', 'an address is none')
  }
  throw new AnnouncementError('invalid', 'an address names a peer')
}

function loadOf ({ sessions, queuedTokens, freeCacheBytes, prefillTokensPerSecond, decodeTokensPerSecond }: Load): AnnouncedLoad {
  const load = {
    sessions, queuedTokens: Number(queuedTokens), freeCacheBytes: Number(freeCacheBytes), prefillTokensPerSecond, decodeTokensPerSecond
  }
  if (!Object.values(load).every((value) => value >= 0 && value <= Number.MAX_SAFE_INTEGER))
    throw new AnnouncementError('invalid', 'its load is not in numbers of 0 or above')
  return load
}

function placementOf ({ memoryBytes, weights, isDraining, reason }: Placement): AnnouncedPlacement {
  if (memoryBytes > Number.MAX_SAFE_INTEGER || weights.length > MAX_FORMAT_CHARS || reason.length > MAX_REASON_CHARS)
    throw new AnnouncementError('invalid', 'what it says of its blocks is too long')
  return { memoryBytes: Number(memoryBytes), weights: plainText(weights), isDraining, reason: plainText(reason) }
}

/** A number as protobuf's whole numbers are; one that is none counts as 0. */
function wholeNumber (value: number): bigint {
  return BigInt(Number.isFinite(value) ? Math.max(Math.round(value), 0) : 0)
}

/** Returns an address without its last part where that names the peer. */
function withoutPeer (address: Multiaddr): Multiaddr {
  return address.getComponents().at(-1)?.name === 'p2p' ? address.decapsulateCode(P2P_CODE) : address
}

/** The code of `/p2p/` in the table of multiaddr protocols. */
const P2P_CODE = 421
