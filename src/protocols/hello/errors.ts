import { MidspanError } from '../../errors.ts'

/** Why a peer is not let in; each is its own error code. */
export const REFUSALS = {
  notAdmitted: 'E_NOT_ADMITTED',
  inviteExpired: 'E_INVITE_EXPIRED',
  inviteSignature: 'E_INVITE_SIGNATURE',
  inviteFederation: 'E_INVITE_FEDERATION',
  inviteUsed: 'E_INVITE_USED',
  inviteRevoked: 'E_INVITE_REVOKED',
  inviteInvalid: 'E_INVITE_INVALID',
  role: 'E_ROLE',
  version: 'E_VERSION',
  federation: 'E_FEDERATION',
  full: 'E_FEDERATION_FULL',
  certificateMissing: 'E_CERTIFICATE_MISSING',
  certificateInvalid: 'E_CERTIFICATE_INVALID',
  certificateSignature: 'E_CERTIFICATE_SIGNATURE',
  certificateFederation: 'E_CERTIFICATE_FEDERATION',
  certificatePeer: 'E_CERTIFICATE_PEER',
  certificateRole: 'E_CERTIFICATE_ROLE',
  certificateExpired: 'E_CERTIFICATE_EXPIRED',
  certificateRevoked: 'E_CERTIFICATE_REVOKED',
  tooOften: 'E_TOO_OFTEN',
  badHello: 'E_BAD_HELLO'
} as const

export type RefusalCode = typeof REFUSALS[keyof typeof REFUSALS]

/** The founder's server gives out certificates with the directory. */
const RENEW = "connect to the founder's server, which gives out certificates: a running daemon does so by itself"

const nextSteps: Readonly<Record<RefusalCode, string>> = {
  E_NOT_ADMITTED: 'ask the server\'s operator for an invite, or to add your peer id to its allow-list',
  E_INVITE_EXPIRED: 'ask for a new invite',
  E_INVITE_SIGNATURE: 'ask for a new invite, and copy all of it',
  E_INVITE_FEDERATION: 'ask this federation\'s server for an invite',
  E_INVITE_USED: 'ask for a new invite',
  E_INVITE_REVOKED: 'ask for a new invite',
  E_INVITE_INVALID: 'copy the whole line that midspan invite printed',
  E_ROLE: 'ask for an invite for this role, and advertise it: see docs/wire.md',
  E_VERSION: 'install the release of Midspan that the federation uses',
  E_FEDERATION: 'leave the federation this home belongs to, or dial its own server',
  E_FEDERATION_FULL: 'ask the server\'s operator to make room with midspan remove',
  E_CERTIFICATE_MISSING: RENEW,
  E_CERTIFICATE_INVALID: RENEW,
  E_CERTIFICATE_SIGNATURE: RENEW,
  E_CERTIFICATE_FEDERATION: RENEW,
  E_CERTIFICATE_PEER: RENEW,
  E_CERTIFICATE_ROLE: 'leave the federation, and join it with an invite for this role',
  E_CERTIFICATE_EXPIRED: RENEW,
  E_CERTIFICATE_REVOKED: 'ask the founder for an invite',
  E_TOO_OFTEN: 'wait a minute, then try again',
  E_BAD_HELLO: 'install the release of Midspan that the federation uses'
}

export function isRefusalCode (code: string): code is RefusalCode {
  return Object.hasOwn(nextSteps, code)
}

/** A peer was not let in: thrown where it is decided, and again where it is heard. */
export class RefusedError extends MidspanError {
  declare readonly code: RefusalCode
  /** The part of the hello that was refused, such as `invite.expires` or `protocols.train`. */
  readonly field: string

  constructor (code: RefusalCode, field: string, reason: string) {
    super(code, reason, { next: nextSteps[code] })
    this.field = field
  }
}
