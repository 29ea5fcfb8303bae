import { setTimeout as delay } from 'node:timers/promises'
import { MidspanError } from '../../errors.ts'
import type { AnnouncedPlacement, AskedMove } from '../../protocols/directory/index.ts'
import type { Draining, Logger } from '../../roles/context.ts'
import { spanText, type Span } from '../../span.ts'

export interface MoverOptions {
  /** The blocks that the server serves. */
  readonly span: Span
  /** Device memory that it may use. */
  readonly memoryBytes: number
  /** What its device keeps frozen matrices as. */
  readonly weights: string
  /** Why it serves its blocks, where it moved to them. */
  readonly reason: string
  readonly logger: Logger
  /** Brings the weights of other blocks into the home, beside those that are served. Throws where they do not fit. */
  readonly fetch: (to: Span, signal: AbortSignal) => Promise<void>
  /** Has the server begin nothing new. */
  readonly drain: () => Draining
  /** Notes durably that the server takes over other blocks, and has the daemon start again. */
  readonly commit: (move: AskedMove) => Promise<void>
  /** Called when `placement` has changed. */
  readonly changed: () => void
  /** How long what is under way may go on; tests shorten it. */
  readonly drainLimitMs?: Readonly<Record<'usual' | 'urgent', number>>
}

/** How long what is under way may go on. A text that is not done by then is replayed by its client at another server. */
export const DRAIN_LIMIT_MS = 60_000

/** The same where nobody is served until then: texts and rounds that wait for the missing blocks would not be done by that time. */
export const URGENT_DRAIN_LIMIT_MS = 1_000

/** How long a server that could not move stays where it is. */
export const FAILED_REST_MS = 600_000

/** The reason with which a move ends that is not wanted any more. */
export class MoveWithdrawnError extends MidspanError {
  constructor () {
    super('E_MOVE_WITHDRAWN', 'the coordinator does not want the move any more')
  }
}

interface UnderWay {
  readonly to: Span
  readonly stop: AbortController
  readonly ended: Promise<void>
}

/**
 * Moves a server to the blocks that the coordinator asks for: fetches their weights while it serves on, begins nothing new, waits until
 * nothing is under way, but not for long, and takes the blocks over. Until then the coordinator may call the move off, and all is as
 * before.
 */
export class Mover {
  readonly #o: MoverOptions
  #underWay: UnderWay | undefined
  #isDraining = false
  #isCommitted = false
  #isStopped = false
  #reason: string
  #resting: NodeJS.Timeout | undefined

  constructor (options: MoverOptions) {
    this.#o = options
    this.#reason = options.reason
  }

  /** What the server says of its blocks; undefined while it does not move. */
  get placement (): AnnouncedPlacement | undefined {
    if (this.#resting !== undefined) return undefined
    const { memoryBytes, weights } = this.#o
    return { memoryBytes, weights, isDraining: this.#isDraining, reason: this.#reason }
  }

  /** Takes in what the coordinator wants now: a move, the same one for as long as it is wanted, or none. */
  asked (move: AskedMove | undefined): void {
    const current = this.#underWay
    if (this.#isCommitted || this.#isStopped || (move !== undefined && current !== undefined && isSame(move.to, current.to))) return
    current?.stop.abort(new MoveWithdrawnError())
    if (move === undefined || isSame(move.to, this.#o.span) || this.#resting !== undefined) return
    const stop = new AbortController()
    this.#underWay = { to: move.to, stop, ended: this.#move(move, stop.signal, current?.ended) }
  }

  /** Ends what is under way. Resolves when it has ended. */
  async stop (): Promise<void> {
    this.#isStopped = true
    clearTimeout(this.#resting)
    this.#underWay?.stop.abort(new MoveWithdrawnError())
    await this.#underWay?.ended
  }

  async #move (move: AskedMove, signal: AbortSignal, before: Promise<void> | undefined): Promise<void> {
    const { logger, fetch, drain, commit, changed, drainLimitMs = { usual: DRAIN_LIMIT_MS, urgent: URGENT_DRAIN_LIMIT_MS } } = this.#o
    const { to, reason, isUrgent } = move
    const blocks = spanText(to)
    await before
    let draining: Draining | undefined
    const drained = new AbortController()
    try {
      signal.throwIfAborted()
      logger.info({ blocks, reason }, 'this server is asked to serve other blocks, and fetches them')
      await fetch(to, signal)
      signal.throwIfAborted()
      draining = drain()
      this.#isDraining = true
      this.#reason = reason
      changed()
      logger.info({ blocks }, 'this server begins nothing new, and moves when nothing is under way')
      const until = AbortSignal.any([signal, drained.signal])
      await Promise.race([draining.idle(until), delay(drainLimitMs[isUrgent ? 'urgent' : 'usual'], undefined, { signal: until })])
      signal.throwIfAborted()
      this.#isCommitted = true
      await commit(move)
      logger.info({ blocks, reason }, 'this server takes over other blocks')
    } catch (error) {
      draining?.end()
      this.#isCommitted = false
      this.#isDraining = false
      this.#reason = this.#o.reason
      if (signal.aborted) logger.info({ blocks }, 'the move to other blocks was called off')
      else this.#rest(blocks, error)
      if (!this.#isStopped) changed()
    } finally {
      drained.abort(new MoveWithdrawnError())
      if (this.#underWay?.stop.signal === signal) this.#underWay = undefined
    }
  }

  #rest (blocks: string, error: unknown): void {
    this.#o.logger.warn({ blocks, err: error, restMs: FAILED_REST_MS }, 'this server cannot move to other blocks, and stays with its own')
    this.#resting = setTimeout(() => {
      this.#resting = undefined
      this.#o.changed()
    }, FAILED_REST_MS)
    this.#resting.unref()
  }
}

function isSame (a: Span, b: Span): boolean {
  return a.first === b.first && a.end === b.end
}
