import { create, toBinary } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { fromString } from 'uint8arrays/from-string'
import { toString } from 'uint8arrays/to-string'
import { MAX_WEIGHT } from '../../api/invite.ts'
import { FEDERATION_ID_BYTES } from '../charter/constants.ts'
import { parseMessage } from '../wire/parse.ts'
import { isSignedBy, parseRecord, signRecord } from '../wire/signed-record.ts'
import { isDate } from './clock.ts'
import { RefusedError, REFUSALS } from './errors.ts'
import { CertificateBodySchema, type CertificateBody } from './hello_pb.ts'
import { readWeight, writtenWeight, type InvitedRole } from './invite.ts'

/** The founder's word that a peer is a member: by it servers admit a member that they did not invite themselves. */
export interface Certificate {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The member's peer id. */
  readonly peer: string
  readonly role: InvitedRole
  /** The share of servers that the member's texts have, beside one of 1: a whole number. */
  readonly weight: number
  readonly issuedAtMs: number
  readonly expiresAtMs: number
  /** The signed certificate as it is sent. */
  readonly bytes: Uint8Array
}

/** How long members can work while the founder's server is away. */
export const CERTIFICATE_LIFETIME_MS = 7 * 24 * 3_600_000

const SIGNATURE_DOMAIN = 'midspan/certificate/1\0'
/** Two names, two times, a hash and a signature take 220 bytes. */
const MAX_CERTIFICATE_BYTES = 512

/** Makes a certificate, signed by the founder's key. */
export async function createCertificate (
  { federation, peer, role, weight = 1 }: Pick<Certificate, 'federation' | 'peer' | 'role'> & Partial<Pick<Certificate, 'weight'>>,
  founder: PrivateKey,
  nowMs = Date.now()
): Promise<Certificate> {
  const expiresAtMs = nowMs + CERTIFICATE_LIFETIME_MS
  const body = toBinary(CertificateBodySchema, create(CertificateBodySchema, {
    federation: fromString(federation, 'hex'),
    peer,
    role,
    issuedAtMs: BigInt(nowMs),
    expiresAtMs: BigInt(expiresAtMs),
    weight: writtenWeight(weight)
  }))
  return { federation, peer, role, weight, issuedAtMs: nowMs, expiresAtMs, bytes: await signRecord(SIGNATURE_DOMAIN, body, founder) }
}

/** Reads a certificate that a peer sent. Throws RefusedError where it is none, or signed by neither the founder nor the leader. */
export async function verifyCertificate (bytes: Uint8Array, founder: string, leader = founder): Promise<Certificate> {
  if (bytes.byteLength > MAX_CERTIFICATE_BYTES) throw invalid('it is too long')
  const { record, body } = decode(bytes)
  if (!await isSignedBy(founder, SIGNATURE_DOMAIN, record) && !await isSignedBy(leader, SIGNATURE_DOMAIN, record))
    throw new RefusedError(REFUSALS.certificateSignature, 'certificate.signature', 'the certificate is not signed by the founder')
  return { ...fieldsOf(body), bytes }
}

/** Who shows a certificate, and what it must be to hold. */
export interface Claim {
  readonly federation: string
  readonly peer: string
  readonly role: InvitedRole
  readonly nowMs: number
  /** Peer ids whose certificates the founder took back. */
  readonly revoked: ReadonlySet<string>
}

/** Throws RefusedError unless a certificate holds for the peer that shows it. */
export function checkCertificate (certificate: Certificate, { federation, peer, role, nowMs, revoked }: Claim): void {
  if (certificate.federation !== federation)
    throw new RefusedError(REFUSALS.certificateFederation, 'certificate.federation', 'the certificate is of another federation')
  if (certificate.peer !== peer)
    throw new RefusedError(REFUSALS.certificatePeer, 'certificate.peer', `the certificate is ${certificate.peer}'s, not ${peer}'s`)
  if (certificate.role !== role)
    throw new RefusedError(REFUSALS.certificateRole, 'certificate.role', `the certificate is for a ${certificate.role}, not for a ${role}`)
  if (certificate.expiresAtMs <= nowMs)
    throw new RefusedError(
      REFUSALS.certificateExpired,
      'certificate.expires',
      `the certificate expired at ${new Date(certificate.expiresAtMs).toISOString()}`
    )
  if (revoked.has(peer)) throw new RefusedError(REFUSALS.certificateRevoked, 'certificate', `${peer} is no member any more`)
}

/** Whether more than half of a certificate's life is over, so that it is time for a new one. */
export function isHalfSpent ({ issuedAtMs, expiresAtMs }: Certificate, nowMs: number): boolean {
  return nowMs >= (issuedAtMs + expiresAtMs) / 2
}

function decode (bytes: Uint8Array) {
  try {
    const record = parseRecord(bytes)
    return { record, body: parseMessage(CertificateBodySchema, record.body, 'a certificate') }
  } catch {
    throw invalid('it is cut off or changed')
  }
}

function fieldsOf ({ federation, peer, role, issuedAtMs, expiresAtMs, weight: written }: CertificateBody): Omit<Certificate, 'bytes'> {
  if (federation.byteLength !== FEDERATION_ID_BYTES) throw invalid('its federation is not a SHA-256')
  if (role !== 'client' && role !== 'server') throw invalid('its role is neither client nor server')
  if (!isDate(Number(issuedAtMs)) || !isDate(Number(expiresAtMs))) throw invalid('its times are none')
  const weight = readWeight(written)
  if (weight > MAX_WEIGHT) throw invalid(`its weight is more than ${MAX_WEIGHT}`)
  return { federation: toString(federation, 'hex'), peer, role, weight, issuedAtMs: Number(issuedAtMs), expiresAtMs: Number(expiresAtMs) }
}

function invalid (reason: string): RefusedError {
  return new RefusedError(REFUSALS.certificateInvalid, 'certificate', `the certificate cannot be read: ${reason}`)
}
