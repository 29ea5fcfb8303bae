import { create, toBinary } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { fromString } from 'uint8arrays/from-string'
import { toString } from 'uint8arrays/to-string'
import { MidspanError } from '../../errors.ts'
import { parseMessage } from '../wire/parse.ts'
import { isSignedBy, parseRecord, signRecord } from '../wire/signed-record.ts'
import { RevocationsBodySchema } from './hello_pb.ts'

/** The peers whose certificates no longer hold, as the founder says. */
export interface Revocations {
  /** The federation's id, in hex. */
  readonly federation: string
  /** A later list has a greater number. */
  readonly version: number
  readonly peers: ReadonlySet<string>
  /** The signed list as it is sent. */
  readonly bytes: Uint8Array
}

/** Peers on a list at most: those that left or were removed within the life of a certificate, the latest. */
export const MAX_REVOKED = 4096

const SIGNATURE_DOMAIN = 'midspan/revocations/1\0'

/** Each peer id takes 54 bytes. */
export const MAX_REVOCATIONS_BYTES = MAX_REVOKED * 54 + 256

/** Thrown for a list of revoked certificates that is none, or not the founder's. */
export class RevocationsError extends MidspanError {
  constructor (reason: string) {
    super('E_REVOCATIONS', `the list of revoked certificates cannot be used: ${reason}`, {
      next: 'install the release of Midspan that the federation uses'
    })
  }
}

/** Makes a list, signed by the founder's key. */
export async function createRevocations (
  { federation, version, peers }: Omit<Revocations, 'bytes'>,
  founder: PrivateKey
): Promise<Revocations> {
  const body = toBinary(RevocationsBodySchema, create(RevocationsBodySchema, {
    federation: fromString(federation, 'hex'), version: BigInt(version), peers: [...peers]
  }))
  return { federation, version, peers, bytes: await signRecord(SIGNATURE_DOMAIN, body, founder) }
}

/** Reads a list that a peer sent. Throws RevocationsError where it is none, another federation's, or not the founder's or leader's. */
export async function verifyRevocations (
  bytes: Uint8Array,
  founder: string,
  federation: string,
  leader = founder
): Promise<Revocations> {
  if (bytes.byteLength > MAX_REVOCATIONS_BYTES) throw new RevocationsError('it is too long')
  const { record, body } = decode(bytes)
  if (!await isSignedBy(founder, SIGNATURE_DOMAIN, record) && !await isSignedBy(leader, SIGNATURE_DOMAIN, record))
    throw new RevocationsError('it is not signed by the founder')
  if (toString(body.federation, 'hex') !== federation) throw new RevocationsError('it is of another federation')
  if (body.peers.length > MAX_REVOKED) throw new RevocationsError('it names too many peers')
  return { federation, version: Number(body.version), peers: new Set(body.peers), bytes }
}

function decode (bytes: Uint8Array) {
  try {
    const record = parseRecord(bytes)
    return { record, body: parseMessage(RevocationsBodySchema, record.body, 'a list of revocations') }
  } catch {
    throw new RevocationsError('it is cut off or changed')
  }
}
