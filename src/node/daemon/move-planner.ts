import { weightFormats, type WeightFormat } from '../../model/layers/weight-format.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import type { AnnouncedPlacement, AskedMove } from '../../protocols/directory/index.ts'
import { coreSpan, servableSpan } from '../../roles/charter-settings.ts'
import type { Logger } from '../../roles/context.ts'
import type { Span } from '../../span.ts'
import { serverMemory, type ServerMemory } from '../federation/block-memory.ts'
import type { PlacedServer, ServerRoom } from '../federation/placement.ts'
import { Rebalancer, type WantedMove } from '../federation/rebalancer.ts'
import type { KnownServers } from './known-servers.ts'

export interface MovePlannerOptions {
  readonly charter: Charter
  /** The coordinator itself, which stays where it is. */
  readonly self: { readonly id: string, readonly span: Span }
  readonly known: Pick<KnownServers, 'servers' | 'announcementOf' | 'onServersChanged'>
  /** How long a block has no server before another one moves there. */
  readonly afterMs: number
  readonly logger: Logger
  /** Called when another move is wanted than before, or none. */
  readonly changed: () => void
}

/** How often it is looked whether a block has been without a server for long enough. */
const LOOK_INTERVAL_MS = 1_000

/** What the coordinator wants servers to do that chose their blocks by themselves. */
export class MovePlanner {
  readonly #o: MovePlannerOptions
  readonly #rebalancer: Rebalancer
  readonly #memory = new Map<WeightFormat, ServerMemory>()
  #wanted: WantedMove | undefined
  /** What is said of it. */
  #asked: { readonly id: string, readonly move: AskedMove } | undefined
  #stopWatching: () => void = () => {}
  #timer: NodeJS.Timeout | undefined

  constructor (options: MovePlannerOptions) {
    this.#o = options
    const { charter, afterMs } = options
    this.#rebalancer = new Rebalancer({ middle: servableSpan(charter), core: coreSpan(charter), afterMs })
  }

  /** Where a server is to move now. */
  moveOf (peer: string): AskedMove | undefined {
    return this.#asked?.id === peer ? this.#asked.move : undefined
  }

  start (): void {
    this.#stopWatching = this.#o.known.onServersChanged(() => { this.#look() })
    this.#timer = setInterval(() => { this.#look() }, Math.min(LOOK_INTERVAL_MS, Math.max(this.#o.afterMs, 1)))
    this.#timer.unref()
  }

  stop (): void {
    this.#stopWatching()
    clearInterval(this.#timer)
  }

  #look (): void {
    const before = this.#wanted
    const wanted = this.#rebalancer.observe(this.#servers(), performance.now())
    if (wanted === before) return
    this.#wanted = wanted
    if (wanted === undefined) this.#asked = undefined
    else this.#asked = { id: wanted.id, move: { to: wanted.to, reason: wanted.reason, isUrgent: wanted.isUrgent } }
    const { logger, changed } = this.#o
    if (before !== undefined) logger.info({ peer: before.id }, 'a server moved to other blocks, or is not to move any more')
    if (wanted !== undefined) logger.info({ peer: wanted.id, reason: wanted.reason }, 'a server is asked to serve other blocks')
    changed()
  }

  /** Who serves what now, servers that are not connected left out. */
  #servers (): PlacedServer[] {
    const { self, known } = this.#o
    const others = known.servers().flatMap(({ peerId, connected, span }): PlacedServer[] => {
      const id = peerId.toString()
      if (!connected || span === undefined) return []
      return [{ id, span, room: this.#roomOf(known.announcementOf(id)?.placement) }]
    })
    return [{ ...self, room: undefined }, ...others]
  }

  #roomOf (placement: AnnouncedPlacement | undefined): ServerRoom | undefined {
    const format = weightFormats.find((format) => format === placement?.weights)
    if (placement === undefined || format === undefined) return undefined
    const memory = this.#memory.get(format) ?? serverMemory(this.#o.charter, { format, residuals: 'saved' })
    this.#memory.set(format, memory)
    return { ...memory, memoryBytes: placement.memoryBytes }
  }
}
