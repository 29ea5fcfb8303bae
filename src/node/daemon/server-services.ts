import type { PeerId, Stream } from '@libp2p/interface'
import { openModelDirectory } from '../../model/checkpoint/directory.ts'
import { protocolId } from '../../protocols/charter/index.ts'
import {
  Admission,
  HelloHost,
  type AdmissionState,
  type AdmittedPeer,
  type Invite,
  type OutstandingInvite
} from '../../protocols/hello/index.ts'
import { answerStatus, type PeerStatus } from '../../protocols/status/status.ts'
import { WeightsService } from '../../protocols/weights/index.ts'
import type { Logger } from '../../roles/context.ts'
import { readAdmission, writeAdmission, type Membership } from '../federation/membership.ts'
import { servableOf, weightSource } from '../federation/servable-weights.ts'
import type { Home } from '../home/home.ts'
import type { Settings } from '../home/settings.ts'
import { addressKey } from '../network/address-key.ts'
import type { Gate } from '../network/gate.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import { AGENT } from '../process/version.ts'

export interface ServerServicesOptions {
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

/** Streams of hello that one connection may have open at once. */
const MAX_HELLO_STREAMS = 2

/** How long a refused peer has to read why: the end of its connection could reach it before the refusal does. */
const REFUSAL_READING_MS = 2_000

/** How long a refused peer's other streams have to end before its connection is cut. */
const CLOSE_TIMEOUT_MS = 2_000

/** A peer that has a place in the federation, connected or not. */
export interface Member extends AdmittedPeer {
  readonly peerId: string
}

/** What a server's operator asks of its services. */
export interface ServerServices {
  members (): Member[]
  /** Takes a peer's place away and hangs up. Resolves to whether it had one. The peer stays removed until it is invited anew. */
  remove (peer: PeerId): Promise<boolean>
  /** Notes an invite that was made, so that it can be listed and revoked. */
  issue (invite: Invite): Promise<void>
  /** The invites that can still be used. */
  invites (): OutstandingInvite[]
  /** Ends an invite by its id or the beginning of it. Resolves to its id, or undefined where no single invite begins so. */
  revoke (id: string): Promise<string | undefined>
}

/** Registers what every server offers: hello for all, weights and status for those it welcomed. */
export async function offerServerServices (options: ServerServicesOptions): Promise<ServerServices> {
  const { home, node, gate, logger, membership: { signed }, model, status } = options
  const admission = await admissionOf(options)
  const persist = inTurn(async (state: AdmissionState) => { await writeAdmission(home, state) })
  const host = helloHost(options, admission, persist)
  await node.handle(protocolId('hello'), async (stream, connection) => {
    const peer = connection.remotePeer
    try {
      if (await host.answer(stream, peer, addressKey(connection.remoteAddr))) {
        gate.supersede(connection)
        return
      }
    } catch (error) {
      logger.warn({ peer: peer.toString(), err: error }, 'a hello failed')
    }
    if (gate.isGreeted(peer)) return
    await closed(stream, REFUSAL_READING_MS)
    await connection.close({ signal: AbortSignal.timeout(CLOSE_TIMEOUT_MS) }).catch((error: unknown) => {
      connection.abort(error as Error)
    })
  }, { maxInboundStreams: MAX_HELLO_STREAMS })
  const weights = new WeightsService(
    await weightSource(await openModelDirectory(model), signed.charter, home.adapter),
    servableOf(signed.charter)
  )
  await gate.handle(protocolId('weights'), async (stream, peer) => {
    await weights.serve(stream, peer.toString())
  })
  await gate.handle(protocolId('status'), async (stream) => {
    await answerStatus(stream, status)
  })
  return {
    members: () => Object.entries(admission.state.peers).map(([peerId, member]) => ({ peerId, ...member })),
    remove: async (peer) => {
      const had = await host.remove(peer)
      await node.hangUp(peer, { signal: AbortSignal.timeout(CLOSE_TIMEOUT_MS) }).catch(() => {
        for (const connection of node.getConnections(peer)) connection.abort(new Error('removed'))
      })
      return had
    },
    issue: async (invite) => {
      admission.issue(invite)
      await persist(admission.state)
    },
    invites: () => admission.outstanding(),
    revoke: async (id) => {
      const revoked = admission.revoke(id)
      if (revoked !== undefined) await persist(admission.state)
      return revoked
    }
  }
}

async function admissionOf ({ home, membership: { signed, peerId }, settings }: ServerServicesOptions): Promise<Admission> {
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

function helloHost (
  { gate, logger, membership: { signed }, removed }: ServerServicesOptions,
  admission: Admission,
  persist: (state: AdmissionState) => Promise<void>
): HelloHost {
  return new HelloHost({
    agent: AGENT,
    charter: signed,
    admission,
    persist,
    advertised: async (peer) => await gate.advertisedRole(peer),
    welcomed: (peer, role, agent) => { gate.greet(peer, role, agent) },
    left: (peer) => {
      logger.info({ peer: peer.toString() }, 'a peer left the federation')
      gate.forget(peer)
      removed(peer.toString())
    }
  })
}

/** Returns a writer of one state whose writes follow one another: each writes the state as it is when its turn comes. */
function inTurn (write: (state: AdmissionState) => Promise<void>): (state: AdmissionState) => Promise<void> {
  let last = Promise.resolve()
  return async (state) => {
    const mine = last.then(async () => { await write(state) })
    last = mine.catch(() => {})
    await mine
  }
}

/** Resolves when a stream is closed, or after a while. */
async function closed (stream: Stream, timeoutMs: number): Promise<void> {
  if (stream.status !== 'open') return
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, timeoutMs)
    stream.addEventListener('close', () => {
      clearTimeout(timer)
      resolve()
    }, { once: true })
  })
}
