import { createHash } from 'node:crypto'

/** Names one attempt at a sum. Everything that is signed or sealed in it is bound to it. */
export interface Attempt {
  /** The federation's id, in hex. */
  readonly federation: string
  readonly round: number
  /** Counts from 0 in a round. */
  readonly attempt: number
  /** Numbers that each contributor adds. */
  readonly values: number
}

/** A contributor's two public keys of one attempt, signed by its identity. */
export interface Advertisement {
  readonly peer: string
  /** The key for shares, which travel sealed through the server [32 bytes]. */
  readonly sealingKey: Uint8Array
  /** The key that masks follow from [32 bytes]. */
  readonly maskingKey: Uint8Array
  /** An Ed25519 signature [64 bytes]. */
  readonly signature: Uint8Array
}

/** Shares of a contributor's secrets, sealed for another one. */
export interface Box {
  /** The other contributor: whom the box is for where it is sent, and whom it is from where it is received. */
  readonly peer: string
  readonly box: Uint8Array
}

/** A contributor's signature of who is in the sum. */
export interface Confirmation {
  readonly peer: string
  readonly signature: Uint8Array
}

/** A share of one of a contributor's two secrets: of the seed of its own mask where it is in the sum, or else of its masking key. */
export interface RevealedShare {
  readonly peer: string
  readonly kind: 'seed' | 'key'
  readonly share: Uint8Array
}

/** What a contributor is asked for, one step after another, with what it is told for it. */
export type SecureRequest =
  | { readonly step: 'advertise', readonly values: number }
  | { readonly step: 'share', readonly roster: readonly Advertisement[] }
  | { readonly step: 'mask', readonly boxes: readonly Box[] }
  | { readonly step: 'confirm', readonly survivors: readonly string[] }
  | { readonly step: 'reveal', readonly confirmations: readonly Confirmation[] }

/** What a contributor answers. */
export type SecureReply =
  | { readonly step: 'advertise', readonly advertisement: Advertisement }
  | { readonly step: 'share', readonly boxes: readonly Box[] }
  | { readonly step: 'mask', readonly words: Uint32Array }
  | { readonly step: 'confirm', readonly signature: Uint8Array }
  | { readonly step: 'reveal', readonly shares: readonly RevealedShare[] }

export type SecureStep = SecureRequest['step']

/** An identity that signs. */
export interface Signer {
  readonly peer: string
  sign (bytes: Uint8Array): Promise<Uint8Array>
}

/** Whether a peer signed these bytes. */
export type Verify = (peer: string, bytes: Uint8Array, signature: Uint8Array) => Promise<boolean>

/** The bytes that a contributor signs to advertise its keys. */
export function advertisedBytes (
  { federation, round, attempt, values }: Attempt,
  { peer, sealingKey, maskingKey }: Omit<Advertisement, 'signature'>
): Uint8Array {
  return signed('keys', [federation, round, attempt, values, peer, hex(sealingKey), hex(maskingKey)])
}

/** The SHA-256 of who takes part with which keys: two contributors that were told the same have the same. */
export function rosterHash ({ federation, round, attempt, values }: Attempt, roster: readonly Advertisement[]): Uint8Array {
  const keys = roster.map(({ peer, sealingKey, maskingKey }) => [peer, hex(sealingKey), hex(maskingKey)])
  return createHash('sha256').update(signed('roster', [federation, round, attempt, values, keys])).digest()
}

/** The bytes that a contributor signs to confirm who is in the sum. */
export function confirmedBytes (roster: Uint8Array, survivors: readonly string[]): Uint8Array {
  return signed('sum', [hex(roster), survivors])
}

/** What the box from one contributor to another is bound to. */
export function boxContext (roster: Uint8Array, from: string, to: string): Uint8Array {
  return signed('box', [hex(roster), from, to])
}

/** The purposes of agreed keys. */
export const BOX_PURPOSE = 'midspan/aggregation/1 box'
export const MASK_PURPOSE = 'midspan/aggregation/1 mask'

function signed (kind: string, fields: readonly unknown[]): Uint8Array {
  return Buffer.from(`midspan/aggregation/1 ${kind}\0${JSON.stringify(fields)}`)
}

function hex (bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
