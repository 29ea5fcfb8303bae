import { peerIdFromString } from '@libp2p/peer-id'
import { CertificateAdmission } from '../../protocols/hello/index.ts'
import type { PeerStatus } from '../../protocols/status/status.ts'
import type { Logger } from '../../roles/context.ts'
import type { Span } from '../../span.ts'
import type { Membership } from '../federation/membership.ts'
import { tensorsOfSpan } from '../federation/servable-weights.ts'
import type { Gate } from '../network/gate.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import type { Leadership } from '../succession/leadership.ts'
import { hangUp, offerHello, offerStatus, offerWeights } from './server-services.ts'

export interface WorkerServicesOptions {
  readonly node: MidspanNode
  readonly gate: Gate
  readonly logger: Logger
  readonly membership: Membership
  readonly leadership: Leadership
  /** The blocks that it serves. */
  readonly span: Span
  /** The model directory. */
  readonly model: string
  /** The file of the adapter that training starts from, where the charter has one. */
  readonly adapter: string
  readonly status: () => PeerStatus
  /** Called when a peer left this server, or lost its place. */
  readonly removed: (peer: string) => void
}

export interface WorkerServices {
  /** Takes the founder's newest list of peers that are no members any more, and hangs up on those of them that are connected. */
  revoke (peers: ReadonlySet<string>): void
  /** The share of servers that a peer's texts have, beside one of 1. */
  weightOf (peer: string): number
}

/** Registers what a worker offers: hello for all who have a certificate, weights of its blocks and status for those it welcomed. */
export async function offerWorkerServices (
  { node, gate, logger, membership: { signed, lead }, leadership, span, model, adapter, status, removed }: WorkerServicesOptions
): Promise<WorkerServices> {
  const { charter, id } = signed
  const admission = new CertificateAdmission({ federation: id, founder: charter.founder, leader: lead.peer, protocols: charter.protocols })
  await offerHello({ node, gate, logger, signed, admission, leadership, persist: async () => {}, removed })
  await offerWeights({ gate, signed, model, adapter, held: new Set(tensorsOfSpan(charter, span)) })
  await offerStatus(gate, status)
  return {
    weightOf: (peer) => admission.weightOf(peer),
    revoke: (peers) => {
      admission.revoke(peers)
      for (const peer of peers) {
        if (gate.roleOf(peer) === undefined) continue
        const peerId = peerIdFromString(peer)
        gate.forget(peerId)
        removed(peer)
        void hangUp(node, peerId)
      }
    }
  }
}
