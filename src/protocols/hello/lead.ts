import { create, toBinary } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { fromString } from 'uint8arrays/from-string'
import { toString } from 'uint8arrays/to-string'
import { parseMessage } from '../wire/parse.ts'
import { isSignedBy, parseRecord, signRecord } from '../wire/signed-record.ts'
import { isDate } from './clock.ts'
import { LeadBodySchema } from './hello_pb.ts'
import { LeadError } from './lead-errors.ts'
import { MAX_MANDATE_BYTES, verifyMandate } from './mandate.ts'

/** Who leads a federation. */
export interface Lead {
  /** A later leader has a greater number; 0 while the founder leads that nobody took over from. */
  readonly term: number
  /** The leader's peer id. */
  readonly peer: string
  readonly issuedAtMs: number
  /** Where the leader can be dialled, without its peer id. */
  readonly addresses: readonly string[]
  /** The signed record as it is sent; undefined for the founder's first term, which the charter says. */
  readonly bytes: Uint8Array | undefined
}

/** Whose word counts in a federation. */
export interface LeadScope {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The founder's peer id. */
  readonly founder: string
}

const SIGNATURE_DOMAIN = 'midspan/lead/1\0'

/** Addresses of a leader, as in an invite. */
export const MAX_LEAD_ADDRESSES = 8

/** A DNS name has at most 255 characters. */
const MAX_ADDRESS_BYTES = 300

/** A mandate, eight addresses and a signature. */
export const MAX_LEAD_BYTES = MAX_MANDATE_BYTES + MAX_LEAD_ADDRESSES * (MAX_ADDRESS_BYTES + 4) + 256

/** Nobody takes over so often. */
export const MAX_TERM = 2 ** 31 - 1

/** Returns the lead that the charter alone says. */
export function firstLead (founder: string): Lead {
  return { term: 0, peer: founder, issuedAtMs: 0, addresses: [], bytes: undefined }
}

/** Makes a server's word that it leads. The founder needs no mandate. */
export async function createLead (
  { federation, term, mandate, addresses, issuedAtMs = Date.now() }: {
    readonly federation: string
    readonly term: number
    readonly mandate: Uint8Array | undefined
    readonly addresses: readonly string[]
    readonly issuedAtMs?: number
  },
  key: PrivateKey
): Promise<Lead> {
  const peer = peerIdFromPrivateKey(key).toString()
  const kept = addresses.slice(0, MAX_LEAD_ADDRESSES)
  const body = toBinary(LeadBodySchema, create(LeadBodySchema, {
    federation: fromString(federation, 'hex'),
    term,
    peer,
    issuedAtMs: BigInt(issuedAtMs),
    mandate: mandate ?? new Uint8Array(0),
    addresses: kept.map((address) => multiaddr(address).bytes)
  }))
  return { term, peer, issuedAtMs, addresses: kept, bytes: await signRecord(SIGNATURE_DOMAIN, body, key) }
}

/**
 * Reads a server's word that it leads. Throws LeadError where it is none, where the server did not sign it, and where the founder gave the
 * server no mandate that held at the time.
 */
export async function verifyLead (bytes: Uint8Array, scope: LeadScope): Promise<Lead> {
  if (bytes.byteLength > MAX_LEAD_BYTES) throw new LeadError('it is too long')
  const { record, body } = decode(bytes)
  const { term, peer } = body
  if (!await isSignedBy(peer, SIGNATURE_DOMAIN, record)) throw new LeadError('it is not signed by that server')
  if (toString(body.federation, 'hex') !== scope.federation) throw new LeadError('it is of another federation')
  const issuedAtMs = Number(body.issuedAtMs)
  if (term < 1 || term > MAX_TERM || !isDate(issuedAtMs)) throw new LeadError('its term or its time is none')
  if (peer !== scope.founder) {
    const mandate = await verifyMandate(body.mandate, scope)
    if (mandate.peer !== peer) throw new LeadError('its mandate is another server\'s')
    if (mandate.expiresAtMs <= issuedAtMs) throw new LeadError('its mandate had expired')
  }
  return { term, peer, issuedAtMs, addresses: addressesOf(body.addresses), bytes }
}

/**
 * Whether one lead counts more than another: a greater term does. Where two servers took the same term, everybody chooses the one whose
 * peer id comes first; of one server in one term, its latest word.
 */
export function isNewerLead (lead: Lead, than: Lead): boolean {
  if (lead.term !== than.term) return lead.term > than.term
  if (lead.peer !== than.peer) return lead.peer < than.peer
  return lead.issuedAtMs > than.issuedAtMs
}

function addressesOf (binary: readonly Uint8Array[]): string[] {
  if (binary.length > MAX_LEAD_ADDRESSES || binary.some(({ byteLength }) => byteLength > MAX_ADDRESS_BYTES))
    throw new LeadError('its addresses are too many or too long')
  try {
    return binary.map((bytes) => multiaddr(bytes).toString())
  } catch {
    throw new LeadError('an address of it is none')
  }
}

function decode (bytes: Uint8Array) {
  try {
    const record = parseRecord(bytes)
    return { record, body: parseMessage(LeadBodySchema, record.body, 'a lead') }
  } catch {
    throw new LeadError('it is cut off or changed')
  }
}
