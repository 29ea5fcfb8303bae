import type { PeerId } from '@libp2p/interface'
import { UsageError } from '../../errors.ts'
import {
  Admission,
  createMandate,
  createRevocations,
  SuccessorAdmission,
  type AdmittedPeer,
  type Invite,
  type Mandate,
  type OutstandingInvite,
  type Revocations
} from '../../protocols/hello/index.ts'
import type { PeerStatus } from '../../protocols/status/status.ts'
import type { Logger } from '../../roles/context.ts'
import { readAdmission, writeAdmission, writeMandates, type Membership } from '../federation/membership.ts'
import type { Home } from '../home/home.ts'
import type { Settings } from '../home/settings.ts'
import type { Gate } from '../network/gate.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import type { Leadership } from '../succession/leadership.ts'
import { hangUp, offerHello, offerStatus, offerWeights } from './server-services.ts'

export interface FounderServicesOptions {
  readonly home: Home
  readonly node: MidspanNode
  readonly gate: Gate
  readonly logger: Logger
  readonly membership: Membership
  readonly leadership: Leadership
  /** The mandates that this server gave, by peer id: `entrust` adds to them. */
  readonly mandates: Map<string, Uint8Array>
  readonly settings: Settings
  /** The model directory. */
  readonly model: string
  /** The file of the adapter that training starts from, where the charter has one. */
  readonly adapter: string
  /** The tensors that are in the directory; all that the charter names, unless given. */
  readonly held?: ReadonlySet<string> | undefined
  readonly status: () => PeerStatus
  /** Called when a peer left the federation or was removed from it. */
  readonly removed: (peer: string) => void
}

/** A peer that has a place in the federation, connected or not. */
export interface Member extends AdmittedPeer {
  readonly peerId: string
}

/** What the operator of a founder's server asks of its services. */
export interface FounderServices {
  members (): Member[]
  /** The share of servers that a peer's texts have, beside one of 1. */
  weightOf (peer: string): number
  /** Takes a peer's place away and hangs up. Resolves to whether it had one. The peer stays removed until it is invited anew. */
  remove (peer: PeerId): Promise<boolean>
  /** Notes an invite that was made, so that it can be listed and revoked. */
  issue (invite: Invite): Promise<void>
  /** The invites that can still be used. */
  invites (): OutstandingInvite[]
  /** Ends an invite by its id or the beginning of it. Resolves to its id, or undefined where no single invite begins so. */
  revoke (id: string): Promise<string | undefined>
  /** Lets a server lead in the founder's place one day. Throws UsageError. */
  entrust (peer: string, lifetimeMs: number): Promise<Mandate>
  /** The signed mandate of a server, where it has one. */
  mandate (peer: string): Uint8Array | undefined
  /** The peers whose certificates no longer hold, as a list that the founder signed. */
  revocations (): Promise<Revocations>
}

/** Registers what a founder's server offers: hello for all, weights and status for those it welcomed. */
export async function offerFounderServices (options: FounderServicesOptions): Promise<FounderServices> {
  const { home, node, gate, logger, membership: { signed, key, peerId }, leadership, mandates, status, removed } = options
  const { model, adapter, held } = options
  const admission = await admissionOf(options)
  const persist = inTurn(async () => { await writeAdmission(home, admission.state) })
  const { founder, protocols } = signed.charter
  const isFounder = peerId.toString() === founder
  // Members of before show certificates to a server that took over.
  const gatekeeper = leadership.lead.term === 0
    ? admission
    : new SuccessorAdmission(admission, { federation: signed.id, founder, leader: peerId.toString(), protocols })
  const host = await offerHello({ node, gate, logger, signed, admission: gatekeeper, leadership, persist, removed })
  await offerWeights({ gate, signed, model, adapter, ...held === undefined ? {} : { held } })
  await offerStatus(gate, status)
  let revocations: Revocations | undefined
  return {
    entrust: async (peer, lifetimeMs) => {
      if (!isFounder)
        throw new UsageError('only the founder\'s key can let a server lead', 'run it on the server that founded the federation')
      if (admission.state.peers[peer]?.role !== 'server')
        throw new UsageError(`${peer} is no server of this federation`, 'those that are, are in: midspan servers')
      const mandate = await createMandate({ federation: signed.id, peer, expiresAtMs: Date.now() + lifetimeMs }, key)
      mandates.set(peer, mandate.bytes)
      await writeMandates(home, mandates)
      return mandate
    },
    mandate: (peer) => mandates.get(peer),
    members: () => Object.entries(admission.state.peers).map(([peerId, { role, how, at, weight }]) =>
      ({ peerId, role, how, at, ...(weight === undefined ? {} : { weight }) })),
    weightOf: (peer) => admission.weightOf(peer),
    remove: async (peer) => {
      const had = await host.remove(peer)
      await hangUp(node, peer)
      return had
    },
    issue: async (invite) => {
      admission.issue(invite)
      await persist()
    },
    invites: () => admission.outstanding(),
    revoke: async (id) => {
      const revoked = admission.revoke(id)
      if (revoked !== undefined) await persist()
      return revoked
    },
    revocations: async () => {
      const peers = new Set(admission.revoked())
      if (revocations === undefined || peers.symmetricDifference(revocations.peers).size > 0) {
        // The clock makes the number greater than that of any list before a restart.
        const version = Math.max(Date.now(), (revocations?.version ?? 0) + 1)
        revocations = await createRevocations({ federation: signed.id, version, peers }, key)
      }
      return revocations
    }
  }
}

async function admissionOf ({ home, membership: { signed, peerId }, settings }: FounderServicesOptions): Promise<Admission> {
  const { charter } = signed
  return new Admission({
    mode: charter.admission,
    federation: signed.id,
    server: peerId.toString(),
    allow: new Set(settings.allow),
    protocols: charter.protocols,
    maxClients: charter.limits.maxClients
  }, await readAdmission(home))
}

/** Returns a writer whose writes follow one another: each writes the state as it is when its turn comes. */
function inTurn (write: () => Promise<void>): () => Promise<void> {
  let last = Promise.resolve()
  return async () => {
    const mine = last.then(write)
    last = mine.catch(() => {})
    await mine
  }
}
