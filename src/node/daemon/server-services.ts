import type { PeerId } from '@libp2p/interface'
import { openModelDirectory } from '../../model/checkpoint/directory.ts'
import { protocolId, type SignedCharter } from '../../protocols/charter/index.ts'
import { HelloHost, type Gatekeeper } from '../../protocols/hello/index.ts'
import { answerStatus, type PeerStatus } from '../../protocols/status/status.ts'
import { WeightsService } from '../../protocols/weights/index.ts'
import { streamClosed } from '../../protocols/wire/wait.ts'
import type { Logger } from '../../roles/context.ts'
import { heldPart, servableOf, weightSource } from '../federation/servable-weights.ts'
import { addressKey } from '../network/address-key.ts'
import type { Gate } from '../network/gate.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import { AGENT } from '../process/version.ts'
import type { Leadership } from '../succession/leadership.ts'

export interface HelloServiceOptions {
  readonly node: MidspanNode
  readonly gate: Gate
  readonly logger: Logger
  readonly signed: SignedCharter
  readonly admission: Gatekeeper
  readonly leadership: Leadership
  /** Keeps what the admission decided. */
  readonly persist: () => Promise<void>
  /** Called when a peer left the federation or was removed from it. */
  readonly removed: (peer: string) => void
}

/** Streams of hello that one connection may have open at once. */
const MAX_HELLO_STREAMS = 2

/** How long a refused peer has to read why: the end of its connection could reach it before the refusal does. */
const REFUSAL_READING_MS = 2_000

/** How long a refused peer's other streams have to end before its connection is cut. */
const CLOSE_TIMEOUT_MS = 2_000

/** Answers hellos, and closes the connections of those who are not let in. */
export async function offerHello (options: HelloServiceOptions): Promise<HelloHost> {
  const { node, gate, logger, signed, admission, leadership, persist, removed } = options
  const host = new HelloHost({
    agent: AGENT,
    charter: signed,
    admission,
    persist,
    lead: () => leadership.lead.bytes,
    heard: (lead) => { leadership.hear(lead) },
    advertised: async (peer) => await gate.advertisedRole(peer),
    welcomed: (peer, role, agent) => { gate.greet(peer, role, agent) },
    left: (peer) => {
      logger.info({ peer: peer.toString() }, 'a peer left the federation')
      gate.forget(peer)
      removed(peer.toString())
    }
  })
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
    await streamClosed(stream, REFUSAL_READING_MS)
    await connection.close({ signal: AbortSignal.timeout(CLOSE_TIMEOUT_MS) }).catch((error: unknown) => {
      connection.abort(error as Error)
    })
  }, { maxInboundStreams: MAX_HELLO_STREAMS })
  return host
}

export interface WeightsOptions {
  readonly gate: Gate
  readonly signed: SignedCharter
  /** The model directory. */
  readonly model: string
  /** The file of the adapter that training starts from, where the charter has one. */
  readonly adapter: string
  /** The tensors that this server has; all that the charter names, unless given. */
  readonly held?: ReadonlySet<string>
}

/** Serves weights to members: to each what its role may have, and what this server has of that. */
export async function offerWeights ({ gate, signed: { charter }, model, adapter, held }: WeightsOptions): Promise<void> {
  const { client, server } = servableOf(charter)
  const [toClients, toServers] = held === undefined ? [client, server] : [heldPart(client, held), heldPart(server, held)]
  const weights = new WeightsService(
    await weightSource(await openModelDirectory(model), charter, adapter, held),
    (peer) => gate.roleOf(peer) === 'server' ? toServers : toClients
  )
  await gate.handle(protocolId('weights'), async (stream, peer) => {
    await weights.serve(stream, peer.toString())
  })
}

/** Answers members who ask what this server does. */
export async function offerStatus (gate: Gate, status: () => PeerStatus): Promise<void> {
  await gate.handle(protocolId('status'), async (stream) => {
    await answerStatus(stream, status)
  })
}

/** Closes every connection of a peer that has no place any more. */
export async function hangUp (node: MidspanNode, peer: PeerId): Promise<void> {
  await node.hangUp(peer, { signal: AbortSignal.timeout(CLOSE_TIMEOUT_MS) }).catch(() => {
    for (const connection of node.getConnections(peer)) connection.abort(new Error('removed'))
  })
}
