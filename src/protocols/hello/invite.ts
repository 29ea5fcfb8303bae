import { randomBytes } from 'node:crypto'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { concat } from 'uint8arrays/concat'
import { fromString } from 'uint8arrays/from-string'
import { toString } from 'uint8arrays/to-string'
import { MAX_WEIGHT } from '../../api/invite.ts'
import { FEDERATION_ID_BYTES } from '../charter/constants.ts'
import { isDate } from './clock.ts'
import { RefusedError, REFUSALS } from './errors.ts'
import { InviteBodySchema, InviteSchema, type InviteBody } from './hello_pb.ts'

export type InvitedRole = 'client' | 'server'

/** A place in a federation, for whoever holds the line. */
export interface Invite {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The peer id of the server that made it. */
  readonly server: string
  /** Where that server can be dialled. */
  readonly addresses: readonly string[]
  readonly role: InvitedRole
  readonly expiresAtMs: number
  /** How many peers may use it. */
  readonly uses: number
  /** The share of servers that texts of the holder have, beside one of 1: a whole number. */
  readonly weight: number
  /** Tells invites apart, in hex. */
  readonly nonce: string
  /** The signed invite as it is sent. */
  readonly bytes: Uint8Array
}

const PREFIX = 'midspan:'
const SIGNATURE_DOMAIN = fromString('midspan/invite/1\0')
const NONCE_BYTES = 16
/** Eight addresses of 60 bytes, an identity and a signature take 700 bytes. */
const MAX_INVITE_BYTES = 2048
const MAX_ADDRESSES = 8
const MAX_USES = 10_000

/** Makes an invite, signed by the server that will honour it. */
export async function createInvite (
  { weight = 1, ...details }: Omit<Invite, 'server' | 'nonce' | 'bytes' | 'weight'> & Partial<Pick<Invite, 'weight'>>,
  key: PrivateKey
): Promise<Invite> {
  const server = peerIdFromPrivateKey(key).toString()
  const nonce = new Uint8Array(randomBytes(NONCE_BYTES))
  const addresses = details.addresses.slice(0, MAX_ADDRESSES)
  const body = toBinary(InviteBodySchema, create(InviteBodySchema, {
    federation: fromString(details.federation, 'hex'),
    server,
    addresses: addresses.map((address) => multiaddr(address).bytes),
    role: details.role,
    expiresAtMs: BigInt(details.expiresAtMs),
    uses: details.uses,
    nonce,
    weight: writtenWeight(weight)
  }))
  const signature = await key.sign(concat([SIGNATURE_DOMAIN, body]))
  const bytes = toBinary(InviteSchema, create(InviteSchema, { body, signature }))
  return { ...details, weight, addresses, server, nonce: toString(nonce, 'hex'), bytes }
}

/** The one line to hand over. */
export function formatInvite (invite: Invite): string {
  return PREFIX + toString(invite.bytes, 'base64url')
}

/** Whether a text means to be an invite rather than an address. */
export function looksLikeInvite (text: string): boolean {
  return text.trim().startsWith(PREFIX)
}

/** Reads the line that someone was handed. Throws RefusedError when it is no invite or its signature is false. */
export async function parseInvite (text: string): Promise<Invite> {
  const trimmed = text.trim()
  if (!looksLikeInvite(trimmed)) throw invalid('it does not start with midspan:')
  if (trimmed.length > PREFIX.length + Math.ceil(MAX_INVITE_BYTES * 4 / 3)) throw invalid('it is too long')
  let bytes
  try {
    bytes = fromString(trimmed.slice(PREFIX.length), 'base64url')
  } catch {
    throw invalid('it is cut off or changed')
  }
  return await verifyInvite(bytes)
}

/** Reads an invite that a peer sent. Throws RefusedError when it is no invite or its signature is false. */
export async function verifyInvite (bytes: Uint8Array): Promise<Invite> {
  if (bytes.byteLength > MAX_INVITE_BYTES) throw invalid('it is too long')
  const { invite, publicKey, body, signature } = decode(bytes)
  if (!await isSigned(publicKey, body, signature)) {
    throw new RefusedError(REFUSALS.inviteSignature, 'invite.signature', 'the invite is not signed by the server it names')
  }
  return invite
}

type Decoded = { invite: Invite, publicKey: ReturnType<typeof publicKeyOf>, body: Uint8Array, signature: Uint8Array }

function decode (bytes: Uint8Array): Decoded {
  try {
    const { body, signature } = fromBinary(InviteSchema, bytes)
    const content = fromBinary(InviteBodySchema, body)
    return { invite: { ...fieldsOf(content), bytes }, publicKey: publicKeyOf(content.server), body, signature }
  } catch (error) {
    if (error instanceof RefusedError) throw error
    throw invalid('it is cut off or changed')
  }
}

function fieldsOf (body: InviteBody): Omit<Invite, 'bytes'> {
  if (body.federation.byteLength !== FEDERATION_ID_BYTES) throw invalid('its federation is not a SHA-256')
  if (body.nonce.byteLength !== NONCE_BYTES) throw invalid('its nonce has another length')
  if (body.role !== 'client' && body.role !== 'server') throw invalid('its role is neither client nor server')
  if (!isDate(Number(body.expiresAtMs))) throw invalid('its expiry is no date')
  if (body.uses < 1 || body.uses > MAX_USES) throw invalid(`it may be used 1 to ${MAX_USES} times, not ${body.uses}`)
  const weight = readWeight(body.weight)
  if (weight > MAX_WEIGHT) throw invalid(`it gives a weight of ${weight}; ${MAX_WEIGHT} is the most`)
  if (body.addresses.length > MAX_ADDRESSES) throw invalid(`it has more than ${MAX_ADDRESSES} addresses`)
  return {
    federation: toString(body.federation, 'hex'),
    server: body.server,
    addresses: body.addresses.map((address) => multiaddr(address).toString()),
    role: body.role,
    expiresAtMs: Number(body.expiresAtMs),
    uses: body.uses,
    weight,
    nonce: toString(body.nonce, 'hex')
  }
}

/** Returns a weight as records have it. That of most peers is left out: releases that know no weights wrote none. */
export function writtenWeight (weight: number): number {
  return weight === 1 ? 0 : weight
}

/** Returns the weight that a record has. */
export function readWeight (written: number): number {
  return written === 0 ? 1 : written
}

function publicKeyOf (peer: string) {
  const { publicKey } = peerIdFromString(peer)
  if (publicKey?.type !== 'Ed25519') throw invalid('its server is not an Ed25519 peer')
  return publicKey
}

async function isSigned (publicKey: ReturnType<typeof publicKeyOf>, body: Uint8Array, signature: Uint8Array): Promise<boolean> {
  try {
    return await publicKey.verify(concat([SIGNATURE_DOMAIN, body]), signature)
  } catch {
    return false // a signature of another length
  }
}

function invalid (reason: string): RefusedError {
  return new RefusedError(REFUSALS.inviteInvalid, 'invite', `the invite cannot be read: ${reason}`)
}
