import { create, toBinary } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { fromString } from 'uint8arrays/from-string'
import { toString } from 'uint8arrays/to-string'
import { FEDERATION_ID_BYTES } from '../charter/constants.ts'
import { parseMessage } from '../wire/parse.ts'
import { isSignedBy, parseRecord, signRecord } from '../wire/signed-record.ts'
import { isDate } from './clock.ts'
import { MandateBodySchema } from './hello_pb.ts'
import { LeadError } from './lead-errors.ts'

/** The founder's word that a server may lead in its place. */
export interface Mandate {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The server's peer id. */
  readonly peer: string
  readonly issuedAtMs: number
  readonly expiresAtMs: number
  /** The signed mandate as it is sent. */
  readonly bytes: Uint8Array
}

const SIGNATURE_DOMAIN = 'midspan/mandate/1\0'

/** A name, two times, a hash and a signature take 210 bytes. */
export const MAX_MANDATE_BYTES = 512

/** Makes a mandate, signed by the founder's key. */
export async function createMandate (
  { federation, peer, expiresAtMs, issuedAtMs = Date.now() }: Omit<Mandate, 'bytes' | 'issuedAtMs'> & { readonly issuedAtMs?: number },
  founder: PrivateKey
): Promise<Mandate> {
  const body = toBinary(MandateBodySchema, create(MandateBodySchema, {
    federation: fromString(federation, 'hex'), peer, issuedAtMs: BigInt(issuedAtMs), expiresAtMs: BigInt(expiresAtMs)
  }))
  return { federation, peer, issuedAtMs, expiresAtMs, bytes: await signRecord(SIGNATURE_DOMAIN, body, founder) }
}

/** Reads a mandate. Throws LeadError where it is none, of another federation, or not signed by the founder. Its expiry is not looked at. */
export async function verifyMandate (
  bytes: Uint8Array,
  { founder, federation }: { readonly founder: string, readonly federation: string }
): Promise<Mandate> {
  if (bytes.byteLength > MAX_MANDATE_BYTES) throw new LeadError('its mandate is too long')
  const { record, body } = decode(bytes)
  if (!await isSignedBy(founder, SIGNATURE_DOMAIN, record)) throw new LeadError('its mandate is not signed by the founder')
  if (body.federation.byteLength !== FEDERATION_ID_BYTES || toString(body.federation, 'hex') !== federation)
    throw new LeadError('its mandate is of another federation')
  const [issuedAtMs, expiresAtMs] = [Number(body.issuedAtMs), Number(body.expiresAtMs)]
  if (!isDate(issuedAtMs) || !isDate(expiresAtMs)) throw new LeadError('the times of its mandate are none')
  return { federation, peer: body.peer, issuedAtMs, expiresAtMs, bytes }
}

function decode (bytes: Uint8Array) {
  try {
    const record = parseRecord(bytes)
    return { record, body: parseMessage(MandateBodySchema, record.body, 'a mandate') }
  } catch {
    throw new LeadError('its mandate is cut off or changed')
  }
}
