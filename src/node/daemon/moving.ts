import type { PeerId, Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { UsageError } from '../../errors.ts'
import type { WeightFormat } from '../../model/layers/weight-format.ts'
import { protocolId, type Charter } from '../../protocols/charter/index.ts'
import type { Announcement } from '../../protocols/directory/index.ts'
import type { FetchSource } from '../../protocols/weights/index.ts'
import { servableSpan } from '../../roles/charter-settings.ts'
import type { Logger, RunningRole } from '../../roles/context.ts'
import { spanText, type Span } from '../../span.ts'
import { serverMemory } from '../federation/block-memory.ts'
import { beginMove, fetchSpan, type MoveRecord } from '../federation/move.ts'
import { fits } from '../federation/placement.ts'
import { workersWith } from '../federation/span-weights.ts'
import type { Home } from '../home/home.ts'
import { Mover } from './mover.ts'

export interface MovingParts {
  readonly home: Home
  readonly charter: Charter
  readonly self: PeerId
  readonly coordinator: PeerId
  /** The blocks that the server serves. */
  readonly span: Span
  readonly memoryBytes: number
  readonly weights: WeightFormat
  /** The last move of the home. */
  readonly lastMove: MoveRecord | undefined
  readonly logger: Logger
  readonly role: Pick<RunningRole, 'drain'>
  readonly announcements: () => readonly Announcement[]
  readonly dial: (peer: PeerId, protocol: string, signal: AbortSignal) => Promise<Stream>
  /** Tells the coordinator what this server says of itself. */
  readonly announce: () => void
  /** Has the daemon start again. */
  readonly startAgain: () => void
}

/** Returns what moves a server that chose its blocks by itself. */
export function moverOf (parts: MovingParts): Mover {
  const { home, charter, self, coordinator, span, memoryBytes, weights, lastMove, logger, role, announcements, dial } = parts
  const source = (peer: string, has: FetchSource['has']): FetchSource => ({
    name: peer, has, open: async (signal) => await dial(peerIdFromString(peer), protocolId('weights'), signal)
  })
  return new Mover({
    span,
    memoryBytes,
    weights,
    reason: lastMove?.to === spanText(span) ? lastMove.reason : '',
    logger,
    fetch: async (to, signal) => {
      const room = { ...serverMemory(charter, { format: weights, residuals: 'saved' }), memoryBytes }
      if (!fits(servableSpan(charter), room, to))
        throw new UsageError(`the blocks ${spanText(to)} do not fit into this server's memory`, 'give more with: midspan join --blocks auto --memory SIZE')
      const others = announcements().filter(({ peer }) => peer !== self.toString() && peer !== coordinator.toString())
      await fetchSpan(home, charter, to, [
        source(coordinator.toString(), () => true),
        ...workersWith(to, charter, others).map(({ announcement, held }) => source(announcement.peer, ({ name }) => held.has(name)))
      ], signal)
    },
    drain: () => role.drain?.() ?? { idle: async () => {}, end: () => {} },
    commit: async ({ to, reason }) => {
      await beginMove(home, { from: span, to, reason })
      parts.startAgain()
    },
    changed: parts.announce
  })
}
