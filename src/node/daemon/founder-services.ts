import type { PeerId } from '@libp2p/interface'
import {
  Admission,
  createRevocations,
  type AdmittedPeer,
  type Invite,
  type OutstandingInvite,
  type Revocations
} from '../../protocols/hello/index.ts'
import type { PeerStatus } from '../../protocols/status/status.ts'
import type { Logger } from '../../roles/context.ts'
import { readAdmission, writeAdmission, type Membership } from '../federation/membership.ts'
import type { Home } from '../home/home.ts'
import type { Settings } from '../home/settings.ts'
import type { Gate } from '../network/gate.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import { hangUp, offerHello, offerStatus, offerWeights } from './server-services.ts'

export interface FounderServicesOptions {
  readonly home: Home
  readonly node: MidspanNode
  readonly gate: Gate
  readonly logger: Logger
  readonly membership: Membership
  readonly settings: Settings
  /** The model directory. */
  readonly model: string
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
  /** The peers whose certificates no longer hold, as a list that the founder signed. */
  revocations (): Promise<Revocations>
}

/** Registers what a founder's server offers: hello for all, weights and status for those it welcomed. */
export async function offerFounderServices (options: FounderServicesOptions): Promise<FounderServices> {
  const { home, node, gate, logger, membership: { signed, key }, model, status, removed } = options
  const admission = await admissionOf(options)
  const persist = inTurn(async () => { await writeAdmission(home, admission.state) })
  const host = await offerHello({ node, gate, logger, signed, admission, persist, removed })
  await offerWeights({ gate, signed, model, adapter: home.adapter })
  await offerStatus(gate, status)
  let revocations: Revocations | undefined
  return {
    members: () => Object.entries(admission.state.peers).map(([peerId, member]) => ({ peerId, ...member })),
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
