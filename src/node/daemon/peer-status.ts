import type { Connection } from '@libp2p/interface'
import type { PeerLine } from '../../api/peers.ts'
import { protocolId } from '../../protocols/charter/index.ts'
import { askStatus, type PeerStatus } from '../../protocols/status/status.ts'
import type { RunningRole } from '../../roles/context.ts'
import type { Span } from '../../span.ts'
import type { Gate, GreetedPeer } from '../network/gate.ts'
import type { MidspanNode } from '../network/libp2p.ts'

/** `peers` is asked by a person who waits. */
const PROBE_TIMEOUT_MS = 3_000

/** Probes every greeted peer now. A value that a peer does not answer in time is null. */
export async function listPeers (node: MidspanNode, gate: Gate, role: RunningRole, signal: AbortSignal): Promise<PeerLine[]> {
  const sessions = role.status().sessions ?? []
  return await Promise.all(gate.greeted().map(async (peer) => {
    const probe = AbortSignal.any([signal, AbortSignal.timeout(PROBE_TIMEOUT_MS)])
    const id = peer.peerId.toString()
    const [connection] = node.getConnections(peer.peerId)
    const [roundTripMs, blocks] = await Promise.all([ping(node, peer, probe), blocksOf(gate, peer, probe)])
    return {
      peerId: id,
      role: peer.role,
      agent: peer.agent,
      blocks,
      roundTripMs,
      path: isRelayed(connection) ? 'relayed' : 'direct',
      sessions: sessions.filter((session) => session.peer === id).length,
      since: peer.since.toISOString(),
      address: connection?.remoteAddr.toString() ?? ''
    }
  }))
}

/** Returns the span from the first to the last block of a role's spans; null where there is none. */
export function blockSpan (blocks: PeerStatus['blocks'] | undefined): Span | null {
  if (blocks === undefined || blocks.length === 0) return null
  return { first: Math.min(...blocks.map(([first]) => first)), end: Math.max(...blocks.map(([, end]) => end)) }
}

async function ping (node: MidspanNode, { peerId }: GreetedPeer, signal: AbortSignal): Promise<number | null> {
  try {
    return await node.services.ping.ping(peerId, { signal })
  } catch {
    return null
  }
}

async function blocksOf (gate: Gate, { peerId, role }: GreetedPeer, signal: AbortSignal): Promise<Span | null> {
  if (role !== 'server') return null
  try {
    return blockSpan((await askStatus(await gate.dial(peerId, protocolId('status'), signal), signal)).blocks)
  } catch {
    return null
  }
}

function isRelayed (connection: Connection | undefined): boolean {
  return connection?.remoteAddr.getComponents().some(({ name }) => name === 'p2p-circuit') ?? false
}
