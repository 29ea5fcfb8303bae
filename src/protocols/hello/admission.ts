import { CERTIFICATE_LIFETIME_MS } from './certificate.ts'
import { RefusedError, REFUSALS } from './errors.ts'
import type { Invite, InvitedRole } from './invite.ts'
import { MAX_REVOKED } from './revocations.ts'

/** What a server remembers of whom it let in: plain JSON. */
export interface AdmissionState {
  /** By peer id. */
  peers: Record<string, AdmittedPeer>
  /** Invites that were made or used and have not expired, by their nonce. */
  invites: Record<string, InviteRecord>
  /** When a peer was removed, in milliseconds since 1970, by peer id. */
  removed: Record<string, number>
  /** When a peer gave its place back, in milliseconds since 1970, by peer id: while a certificate that it was given may hold. */
  left: Record<string, number>
}

/** What a server remembers of an invite. */
export interface InviteRecord {
  expiresAtMs: number
  usedBy: string[]
  /** Unknown for an invite that was used and not noted when it was made. */
  role?: InvitedRole | undefined
  uses?: number | undefined
  issuedAtMs?: number | undefined
  revoked?: boolean | undefined
}

/** An invite that can still be used. */
export interface OutstandingInvite {
  /** Its nonce, in hex. */
  readonly id: string
  readonly role: InvitedRole
  readonly expiresAtMs: number
  readonly usesLeft: number
  readonly usedBy: readonly string[]
}

export function emptyAdmission (): AdmissionState {
  return { peers: {}, invites: {}, removed: {}, left: {} }
}

export interface AdmittedPeer {
  role: InvitedRole
  /** `certificate`: by another server of the federation, which led before this one. */
  how: 'invite' | 'allow-list' | 'open' | 'certificate'
  /** ISO 8601. */
  at: string
  /** The share of servers that its texts have, where that is not 1. */
  weight?: number | undefined
  /** Whether it has said hello again since. */
  seen?: true | undefined
}

/** The parts of a peer's hello that admission looks at. */
export interface Candidate {
  readonly peer: string
  readonly role: string
  /** The federation the peer has pinned, in hex, or undefined. */
  readonly federation: string | undefined
  readonly protocols: Readonly<Record<string, string>>
  /** Its signature was checked already. */
  readonly invite: Invite | undefined
  /** Nothing of it was checked. */
  readonly certificate?: Uint8Array | undefined
}

/** Decides who is let in. */
export interface Gatekeeper {
  /** Lets a peer in, or throws RefusedError. Gives its role, and whether there is something to be kept. */
  admit (candidate: Candidate): Promise<AdmissionDecision> | AdmissionDecision
  /** Whether a peer has a place now. */
  has (peer: string): boolean
  /** The share of servers that a peer's texts have, beside one of 1. */
  weightOf (peer: string): number
  /** Gives a peer's place back, as the peer asked. Returns whether it had one. */
  leave (peer: string): boolean
  /** Takes a peer's place away, as the operator asked. Returns whether it had one. */
  remove (peer: string): boolean
}

export interface AdmissionDecision {
  readonly role: InvitedRole
  readonly changed: boolean
}

export interface AdmissionPolicy {
  readonly mode: 'invite' | 'allow-list' | 'open'
  /** The federation's id, in hex. */
  readonly federation: string
  /** This server's peer id: it honours its own invites. */
  readonly server: string
  /** Peers admitted in every mode without an invite. */
  readonly allow: ReadonlySet<string>
  /** Protocol versions the federation uses, by name. */
  readonly protocols: Readonly<Record<string, string>>
  readonly maxClients: number
}

/**
 * A place that was taken openly lapses after this, where others need it and its peer never came back: `join` says hello once, and the
 * daemon that is started after it again.
 */
export const OPEN_PLACE_LAPSES_MS = 24 * 3_600_000

/** No invite lasts longer: a revoked one that was never noted is remembered for this long. */
const MAX_INVITE_MS = 10 * 365 * 24 * 3_600_000

/** An invite's whole id. */
const NONCE = /^[0-9a-f]{32}$/

/**
 * Decides who is let in as the charter says. Holds no sockets and no files: the caller persists `state` when `admit` changed it.
 */
export class Admission implements Gatekeeper {
  readonly state: AdmissionState
  readonly #policy: AdmissionPolicy
  readonly #now: () => number

  constructor (policy: AdmissionPolicy, state: AdmissionState = emptyAdmission(), now: () => number = Date.now) {
    this.#policy = policy
    this.state = state
    this.#now = now
  }

  /** Lets a peer in, or throws RefusedError. Returns its role and whether the state changed. */
  admit (candidate: Candidate): AdmissionDecision {
    checkFederation(candidate, this.#policy.federation)
    checkVersions(candidate, this.#policy.protocols)
    const role = roleOf(candidate)
    const known = this.state.peers[candidate.peer]
    if (known !== undefined && this.#stillHolds(candidate.peer, known)) {
      if (known.role !== role) throw refuseRole(role, known.role)
      if (known.how !== 'open' || known.seen === true) return { role, changed: false }
      known.seen = true
      return { role, changed: true }
    }
    const how = this.#ground(candidate, role)
    this.#checkRoom(candidate.peer, role)
    if (how === 'invite' && candidate.invite !== undefined) this.#use(candidate.invite, candidate.peer)
    delete this.state.removed[candidate.peer]
    delete this.state.left[candidate.peer]
    const weight = how === 'invite' ? candidate.invite?.weight ?? 1 : 1
    const at = new Date(this.#now()).toISOString()
    this.state.peers[candidate.peer] = { role, how, at, ...(weight === 1 ? {} : { weight }) }
    return { role, changed: true }
  }

  /** Takes over a peer that has its place from another server, which led before this one. */
  adopt (peer: string, role: InvitedRole, weight = 1): void {
    const at = new Date(this.#now()).toISOString()
    this.state.peers[peer] = { role, how: 'certificate', at, ...(weight === 1 ? {} : { weight }) }
  }

  /** Whether a peer has a place now. */
  has (peer: string): boolean {
    const known = this.state.peers[peer]
    return known !== undefined && this.#stillHolds(peer, known)
  }

  weightOf (peer: string): number {
    return this.state.peers[peer]?.weight ?? 1
  }

  /** Gives a peer's place back, as the peer asked. Returns whether it had one. It may come back as it came. */
  leave (peer: string): boolean {
    if (!this.#takeOut(peer)) return false
    const { left } = this.state
    delete left[peer]
    left[peer] = this.#now()
    // Whoever left first stands first.
    let excess = Object.keys(left).length - MAX_REVOKED
    for (const id in left) {
      if (excess-- <= 0 && left[id]! > this.#now() - CERTIFICATE_LIFETIME_MS) break
      delete left[id]
    }
    return true
  }

  /**
   * Takes a peer's place away, as the operator asked. Returns whether it had one. The peer stays removed until it shows an invite for one
   * peer that was made after this, or stands on the allow-list.
   */
  remove (peer: string): boolean {
    if (!this.#takeOut(peer)) return false
    this.state.removed[peer] = this.#now()
    return true
  }

  /** The peers that have no place any more, and that may hold a certificate which has not expired: the latest first, a bounded number. */
  revoked (): string[] {
    const sinceMs = this.#now() - CERTIFICATE_LIFETIME_MS
    return [...Object.entries(this.state.removed), ...Object.entries(this.state.left)].filter(([, atMs]) => atMs > sinceMs)
      .toSorted(([, a], [, b]) => b - a).slice(0, MAX_REVOKED).map(([peer]) => peer)
  }

  #takeOut (peer: string): boolean {
    return Object.hasOwn(this.state.peers, peer) && delete this.state.peers[peer]
  }

  /** Notes an invite that was made, so that it can be listed and revoked. */
  issue ({ nonce, role, expiresAtMs, uses }: Pick<Invite, 'nonce' | 'role' | 'expiresAtMs' | 'uses'>): void {
    this.#dropExpired()
    // A clock that was set back meanwhile does not make the invite one from before a removal.
    const issuedAtMs = Object.values(this.state.removed).reduce((latest, atMs) => Math.max(latest, atMs + 1), this.#now())
    this.state.invites[nonce] = { expiresAtMs, usedBy: [], role, uses, issuedAtMs }
  }

  /** The invites that can still be used, those that expire first first. */
  outstanding (): OutstandingInvite[] {
    return Object.entries(this.state.invites).flatMap(([id, { role = 'client', uses, usedBy, expiresAtMs, revoked }]) => {
      const usesLeft = (uses ?? usedBy.length) - usedBy.length
      const isOpen = revoked !== true && expiresAtMs > this.#now() && usesLeft > 0
      return isOpen ? [{ id, role, expiresAtMs, usesLeft, usedBy: [...usedBy] }] : []
    }).toSorted((a, b) => a.expiresAtMs - b.expiresAtMs)
  }

  /**
   * Ends an invite for good: nobody can use it any more, and who used it keeps its place. The id is the invite's nonce in hex or the
   * beginning of it, as `outstanding` lists it. Returns the full id, or undefined where no invite or more than one begins so.
   */
  revoke (id: string): string | undefined {
    const found = Object.keys(this.state.invites).filter((nonce) => nonce.startsWith(id))
    const nonce = found.length === 1 ? found[0] : NONCE.test(id) ? id : undefined
    if (nonce === undefined) return undefined
    const record = this.state.invites[nonce] ??= { expiresAtMs: this.#now() + MAX_INVITE_MS, usedBy: [] }
    record.revoked = true
    return nonce
  }

  /** A place lasts while the ground it was given on does; one by invite or certificate lasts until it is removed. */
  #stillHolds (peer: string, { how }: AdmittedPeer): boolean {
    if (how === 'allow-list') return this.#policy.allow.has(peer)
    return how !== 'open' || this.#policy.mode === 'open'
  }

  #ground ({ peer, invite }: Candidate, role: InvitedRole): AdmittedPeer['how'] {
    if (this.#policy.allow.has(peer)) return 'allow-list'
    this.#checkRemoved(peer, invite)
    if (invite !== undefined && this.#policy.mode !== 'allow-list') {
      this.#checkInvite(invite, peer, role)
      return 'invite'
    }
    if (this.#policy.mode === 'open' && role === 'client') return 'open'
    throw new RefusedError(REFUSALS.notAdmitted, 'peer', `${peer} is not admitted to this federation`)
  }

  /** A removed peer needs an invite that was made for one peer after it was removed: an older one, or one for many, is not meant for it. */
  #checkRemoved (peer: string, invite: Invite | undefined): void {
    const removedAtMs = this.state.removed[peer]
    if (removedAtMs === undefined) return
    const issuedAtMs = invite === undefined ? undefined : this.state.invites[invite.nonce]?.issuedAtMs
    if (invite?.uses === 1 && issuedAtMs !== undefined && issuedAtMs > removedAtMs) return
    throw new RefusedError(
      REFUSALS.notAdmitted,
      'peer',
      `${peer} was removed from this federation; only an invite made for it alone since then lets it in`
    )
  }

  #checkInvite (invite: Invite, peer: string, role: InvitedRole): void {
    if (invite.server !== this.#policy.server) {
      throw new RefusedError(REFUSALS.inviteSignature, 'invite.server', `the invite is signed by ${invite.server}, not by this server`)
    }
    if (invite.federation !== this.#policy.federation)
      throw new RefusedError(REFUSALS.inviteFederation, 'invite.federation', 'the invite is to another federation')
    if (invite.expiresAtMs <= this.#now()) {
      throw new RefusedError(
        REFUSALS.inviteExpired,
        'invite.expires',
        `the invite expired at ${new Date(invite.expiresAtMs).toISOString()}`
      )
    }
    if (invite.role !== role) throw refuseRole(role, invite.role)
    const { usedBy = [], revoked } = this.state.invites[invite.nonce] ?? {}
    if (revoked === true) throw new RefusedError(REFUSALS.inviteRevoked, 'invite', 'the invite was revoked')
    if (!usedBy.includes(peer) && usedBy.length >= invite.uses) {
      throw new RefusedError(
        REFUSALS.inviteUsed,
        'invite.uses',
        invite.uses === 1 ? 'the invite was used already' : `the invite was used ${invite.uses} times already`
      )
    }
  }

  #use (invite: Invite, peer: string): void {
    this.#dropExpired()
    const { nonce, expiresAtMs, role, uses } = invite
    const record = this.state.invites[nonce] ??= { expiresAtMs, usedBy: [], role, uses }
    if (!record.usedBy.includes(peer)) record.usedBy.push(peer)
  }

  /** Forgets invites that are refused as expired from now on. */
  #dropExpired (): void {
    for (const [nonce, { expiresAtMs }] of Object.entries(this.state.invites)) {
      if (expiresAtMs <= this.#now()) delete this.state.invites[nonce]
    }
  }

  #checkRoom (peer: string, role: InvitedRole): void {
    if (role !== 'client') return
    const others = Object.entries(this.state.peers).filter(([id, { role }]) => role === 'client' && id !== peer)
    if (others.length < this.#policy.maxClients) return
    const lapsed = others.find(([, { how, seen, at }]) =>
      how === 'open' && seen !== true && Date.parse(at) <= this.#now() - OPEN_PLACE_LAPSES_MS)
    if (lapsed === undefined)
      throw new RefusedError(REFUSALS.full, 'role', `the federation has its ${this.#policy.maxClients} clients already`)
    this.leave(lapsed[0])
  }
}

/** Throws RefusedError where a peer has pinned another federation's charter. */
export function checkFederation ({ federation }: Candidate, ours: string): void {
  if (federation === undefined || federation === ours) return
  throw new RefusedError(
    REFUSALS.federation,
    'federation',
    `this server belongs to the federation ${ours.slice(0, 16)}…, not to ${federation.slice(0, 16)}…`
  )
}

/** Throws RefusedError where a peer does not speak a protocol as the federation does. */
export function checkVersions ({ protocols }: Candidate, ours: AdmissionPolicy['protocols']): void {
  for (const [name, version] of Object.entries(ours)) {
    const theirs = Object.hasOwn(protocols, name) ? protocols[name] : undefined
    if (theirs?.split('.')[0] !== version.split('.')[0]) {
      throw new RefusedError(
        REFUSALS.version,
        `protocols.${name}`,
        `the federation speaks ${name} ${version}, and this peer speaks ${theirs ?? 'none'}`
      )
    }
  }
}

/** Reads the role that a peer asks for. Throws RefusedError where there is no such role. */
export function roleOf ({ role }: Candidate): InvitedRole {
  if (role === 'client' || role === 'server') return role
  throw new RefusedError(REFUSALS.role, 'role', 'a peer is a client or a server')
}

function refuseRole (asked: string, granted: string): RefusedError {
  return new RefusedError(REFUSALS.role, 'role', `this peer is admitted as a ${granted}, and asks to be a ${asked}`)
}
