import { create, toBinary } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { concat } from 'uint8arrays/concat'
import { fromString } from 'uint8arrays/from-string'
import { parseMessage } from './parse.ts'
import { SignedRecordSchema, type SignedRecord } from './wire_pb.ts'

/**
 * Signs a body as a record of one kind. The domain is the kind's own string, with a zero byte at its end, so that a signature of one kind
 * means nothing in another.
 */
export async function signRecord (domain: string, body: Uint8Array, key: PrivateKey): Promise<Uint8Array> {
  return toBinary(SignedRecordSchema, create(SignedRecordSchema, { body, signature: await key.sign(signedBytes(domain, body)) }))
}

/** Reads a record whose signature is still to be checked. Throws FrameMalformedError. */
export function parseRecord (bytes: Uint8Array): SignedRecord {
  return parseMessage(SignedRecordSchema, bytes, 'a signed record')
}

/** Whether a record of this kind was signed by this peer. */
export async function isSignedBy (peer: string, domain: string, { body, signature }: SignedRecord): Promise<boolean> {
  try {
    const { publicKey } = peerIdFromString(peer)
    return publicKey?.type === 'Ed25519' && await publicKey.verify(signedBytes(domain, body), signature)
  } catch {
    return false // a peer id that does not decode has no key, and a signature of another length is none
  }
}

function signedBytes (domain: string, body: Uint8Array): Uint8Array {
  return concat([fromString(domain), body])
}
