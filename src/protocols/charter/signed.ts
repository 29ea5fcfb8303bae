import { createHash } from 'node:crypto'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import canonicalize from 'canonicalize'
import { concat as concatBytes } from 'uint8arrays/concat'
import { fromString } from 'uint8arrays/from-string'
import { toString } from 'uint8arrays/to-string'
import { z } from 'zod'
import { CHARTER_SIGNATURE_DOMAIN, CHARTER_VERSION, MAX_CHARTER_BYTES, MAX_CHARTER_DEPTH } from './constants.ts'
import { CharterFieldError, CharterInvalidError, CharterSignatureError, CharterVersionError } from './errors.ts'
import { charterSchema, type Charter } from './schema.ts'

/** A charter whose signature and format were checked. */
export interface SignedCharter {
  readonly charter: Charter
  /** The federation's id: hex SHA-256 of the canonical JSON (RFC 8785) of the charter. */
  readonly id: string
  /** The same hash as bytes, to bind sessions to. */
  readonly hash: Uint8Array
  /** The signed document as it is stored and sent. */
  readonly bytes: Uint8Array
}

const documentSchema = z.strictObject({ charter: z.unknown(), signature: z.string().regex(/^[A-Za-z0-9_-]{86}$/) })

/** Signs a charter as its founder. Throws CharterInvalidError when the charter does not follow the format or names another founder. */
export async function signCharter (charter: Charter, key: PrivateKey): Promise<SignedCharter> {
  const checked = check(charter)
  const founder = peerIdFromPrivateKey(key).toString()
  if (checked.founder !== founder) throw new CharterInvalidError('founder', `is ${checked.founder}, and the key that signs is ${founder}'s`)
  const canonical = canonicalBytes(charter)
  const signature = await key.sign(signedBytes(canonical))
  const bytes = canonicalBytes({ charter, signature: toString(signature, 'base64url') })
  if (bytes.byteLength > MAX_CHARTER_BYTES)
    throw new CharterInvalidError('', `it is ${bytes.byteLength} bytes, more than ${MAX_CHARTER_BYTES}`)
  return describe(checked, canonical, bytes)
}

/**
 * Reads a signed charter from bytes nobody vouches for.
 * Throws CharterInvalidError, CharterFieldError, CharterVersionError or CharterSignatureError.
 */
export async function verifyCharter (bytes: Uint8Array): Promise<SignedCharter> {
  if (bytes.byteLength > MAX_CHARTER_BYTES)
    throw new CharterInvalidError('', `it is ${bytes.byteLength} bytes, more than ${MAX_CHARTER_BYTES}`)
  const document = documentSchema.safeParse(parse(bytes))
  if (!document.success) throw new CharterInvalidError('', 'it is not a signed charter')
  const { charter, signature } = document.data
  const version = (charter as { version?: unknown } | null)?.version
  if (typeof version === 'number' && version !== CHARTER_VERSION) throw new CharterVersionError('version', version, CHARTER_VERSION)
  const checked = check(charter)
  const canonical = canonicalBytes(charter)
  if (!await isSignedBy(checked.founder, canonical, signature)) {
    throw new CharterSignatureError(`the signature is not by ${checked.founder}`)
  }
  return describe(checked, canonical, bytes)
}

function describe (charter: Charter, canonical: Uint8Array, bytes: Uint8Array): SignedCharter {
  const hash = new Uint8Array(createHash('sha256').update(canonical).digest())
  return { charter, id: toString(hash, 'hex'), hash, bytes }
}

function check (value: unknown): Charter {
  const result = charterSchema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  const unknownKey = issue?.code === 'unrecognized_keys' ? issue.keys[0] : undefined
  const path = [...issue?.path ?? [], ...(unknownKey === undefined ? [] : [unknownKey])]
  if (unknownKey !== undefined) throw new CharterFieldError(path.join('.'))
  throw new CharterInvalidError(path.join('.'), issue?.message ?? 'it does not follow the format')
}

async function isSignedBy (founder: string, canonical: Uint8Array, signature: string): Promise<boolean> {
  try {
    const { publicKey } = peerIdFromString(founder)
    return publicKey !== undefined && await publicKey.verify(signedBytes(canonical), fromString(signature, 'base64url'))
  } catch {
    return false // a peer id that does not decode has no key, and bits after the last byte of base64 no meaning: nothing is signed so
  }
}

function signedBytes (canonical: Uint8Array): Uint8Array {
  return concatBytes([fromString(CHARTER_SIGNATURE_DOMAIN), canonical])
}

function canonicalBytes (value: unknown): Uint8Array {
  let text
  try {
    text = canonicalize(value)
  } catch (error) {
    throw new CharterInvalidError('', 'it has no canonical form', { cause: error }) // a lone surrogate, for one
  }
  if (text === undefined) throw new CharterInvalidError('', 'it has no canonical form')
  return fromString(text)
}

function parse (bytes: Uint8Array): unknown {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw new CharterInvalidError('', 'it is not JSON', { cause: error })
  }
  assertShallow(value)
  return value
}

/** Walks level by level: a recursive walk is what a deep document attacks. */
function assertShallow (value: unknown): void {
  let level: unknown[] = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_CHARTER_DEPTH) throw new CharterInvalidError('', `it nests more than ${MAX_CHARTER_DEPTH} levels deep`)
    level = level.flatMap((item): unknown[] => typeof item === 'object' && item !== null ? Object.values(item) : [])
  }
}
