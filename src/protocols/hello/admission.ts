import { RefusedError, REFUSALS } from './errors.ts'
import type { Invite, InvitedRole } from './invite.ts'

/** What a server remembers of whom it let in: plain JSON. */
export interface AdmissionState {
  /** By peer id. */
  peers: Record<string, AdmittedPeer>
  /** Which peers used an invite, by its nonce. */
  invites: Record<string, { expiresAtMs: number, usedBy: string[] }>
}

export interface AdmittedPeer {
  role: InvitedRole
  how: 'invite' | 'allow-list' | 'open'
  /** ISO 8601. */
  at: string
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

/** Decides who is let in. Holds no sockets and no files: the caller persists `state` when `admit` changed it. */
export class Admission {
  readonly state: AdmissionState
  readonly #policy: AdmissionPolicy
  readonly #now: () => number

  constructor (policy: AdmissionPolicy, state: AdmissionState = { peers: {}, invites: {} }, now: () => number = Date.now) {
    this.#policy = policy
    this.state = state
    this.#now = now
  }

  /** Lets a peer in, or throws RefusedError. Returns its role and whether the state changed. */
  admit (candidate: Candidate): { role: InvitedRole, changed: boolean } {
    this.#checkFederation(candidate)
    this.#checkVersions(candidate)
    const role = roleOf(candidate)
    const known = this.state.peers[candidate.peer]
    if (known !== undefined && this.#stillHolds(candidate.peer, known)) {
      if (known.role !== role) throw refuseRole(role, known.role)
      return { role, changed: false }
    }
    const how = this.#ground(candidate, role)
    this.#checkRoom(candidate.peer, role)
    if (how === 'invite' && candidate.invite !== undefined) this.#use(candidate.invite, candidate.peer)
    this.state.peers[candidate.peer] = { role, how, at: new Date(this.#now()).toISOString() }
    return { role, changed: true }
  }

  /** Takes a peer's place away. Returns whether it had one. An invite it used stays used. */
  remove (peer: string): boolean {
    return Object.hasOwn(this.state.peers, peer) && delete this.state.peers[peer]
  }

  /** A place lasts while the ground it was given on does; one by invite lasts until it is removed. */
  #stillHolds (peer: string, { how }: AdmittedPeer): boolean {
    return how === 'invite' || (how === 'allow-list' && this.#policy.allow.has(peer)) || (how === 'open' && this.#policy.mode === 'open')
  }

  #ground ({ peer, invite }: Candidate, role: InvitedRole): AdmittedPeer['how'] {
    if (this.#policy.allow.has(peer)) return 'allow-list'
    if (invite !== undefined && this.#policy.mode !== 'allow-list') {
      this.#checkInvite(invite, peer, role)
      return 'invite'
    }
    if (this.#policy.mode === 'open' && role === 'client') return 'open'
    throw new RefusedError(REFUSALS.notAdmitted, 'peer', `${peer} is not admitted to this federation`)
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
    const usedBy = this.state.invites[invite.nonce]?.usedBy ?? []
    if (!usedBy.includes(peer) && usedBy.length >= invite.uses) {
      throw new RefusedError(
        REFUSALS.inviteUsed,
        'invite.uses',
        invite.uses === 1 ? 'the invite was used already' : `the invite was used ${invite.uses} times already`
      )
    }
  }

  #use (invite: Invite, peer: string): void {
    for (const [nonce, { expiresAtMs }] of Object.entries(this.state.invites)) {
      if (expiresAtMs <= this.#now()) delete this.state.invites[nonce] // it is refused as expired from now on
    }
    const record = this.state.invites[invite.nonce] ??= { expiresAtMs: invite.expiresAtMs, usedBy: [] }
    if (!record.usedBy.includes(peer)) record.usedBy.push(peer)
  }

  #checkRoom (peer: string, role: InvitedRole): void {
    if (role !== 'client') return
    const others = Object.entries(this.state.peers).filter(([id, { role }]) => role === 'client' && id !== peer).length
    if (others >= this.#policy.maxClients)
      throw new RefusedError(REFUSALS.full, 'role', `the federation has its ${this.#policy.maxClients} clients already`)
  }

  #checkFederation ({ federation }: Candidate): void {
    if (federation !== undefined && federation !== this.#policy.federation) {
      throw new RefusedError(
        REFUSALS.federation,
        'federation',
        `this server belongs to the federation ${this.#policy.federation.slice(0, 16)}…, not to ${federation.slice(0, 16)}…`
      )
    }
  }

  #checkVersions ({ protocols }: Candidate): void {
    for (const [name, version] of Object.entries(this.#policy.protocols)) {
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
}

function roleOf ({ role }: Candidate): InvitedRole {
  if (role === 'client' || role === 'server') return role
  throw new RefusedError(REFUSALS.role, 'role', 'a peer is a client or a server')
}

function refuseRole (asked: string, granted: string): RefusedError {
  return new RefusedError(REFUSALS.role, 'role', `this peer is admitted as a ${granted}, and asks to be a ${asked}`)
}
