import { blocksText, commonSpan, spanText, uncovered, type Span } from '../../span.ts'
import { isServed, mayLeave, rebalance, type Move, type PlacedServer, type PlacementScope } from './placement.ts'

export interface RebalancerOptions extends PlacementScope {
  /** How long a block has no server before another one moves there: a server that restarts is back by then. */
  readonly afterMs: number
}

/** A move that is wanted, and why. */
export interface WantedMove extends Move {
  /** The rest of a sentence about the server, for people. */
  readonly reason: string
  /** Whether nobody is served until then. */
  readonly isUrgent: boolean
}

interface UnderWay {
  readonly move: WantedMove
  readonly sinceMs: number
  /** Since when the server is not there; undefined while it is. */
  goneSinceMs: number | undefined
}

/** How long a server may fetch the weights of its new blocks, and end what is under way, before another one is asked. */
export const MOVE_LIMIT_MS = 3_600_000

/** How long a server that moves may be away: it starts again, and loads some gigabytes of weights. */
export const AWAY_LIMIT_MS = 300_000

/** How long a server that was asked to move and did not is left where it is. */
export const REST_MS = 600_000

/**
 * Decides which server moves to which blocks: one at a time, where a block has been without a server for a while and no block that somebody
 * is served with loses its last one. It is told who serves what again and again, and has no clock of its own.
 */
export class Rebalancer {
  readonly #options: RebalancerOptions
  #unservedSinceMs: number | undefined
  #underWay: UnderWay | undefined
  /** The moves after the one that is under way. */
  #plan: readonly Move[] = []
  /** Servers that are left where they are, and until when. */
  readonly #resting = new Map<string, number>()

  constructor (options: RebalancerOptions) {
    this.#options = options
  }

  /**
   * Takes in who serves what now, servers that cannot be reached left out. Returns the move that is wanted: the one that is under way for
   * as long as it helps and hurts nobody, or the next one; undefined where all stay.
   */
  observe (servers: readonly PlacedServer[], nowMs: number): WantedMove | undefined {
    const { middle, afterMs } = this.#options
    const unserved = uncovered(middle, servers.map(({ span }) => span))
    this.#underWay = this.#goesOn(servers, unserved, nowMs)
    if (this.#underWay !== undefined) return this.#underWay.move
    if (unserved.length === 0) {
      this.#unservedSinceMs = undefined
      this.#plan = []
      return undefined
    }
    this.#unservedSinceMs ??= nowMs
    const unservedMs = nowMs - this.#unservedSinceMs
    if (unservedMs < afterMs) return undefined
    const next = this.#next(servers, unserved, nowMs)
    if (next === undefined) return undefined
    const seconds = Math.round(unservedMs / 1000)
    const reason = `moves from ${spanText(next.from)} to ${spanText(next.to)}: nobody served the ${blocksText(unserved)} for ${seconds} s`
    const move = { ...next, reason, isUrgent: !isServed(this.#options, servers) }
    this.#underWay = { move, sinceMs: nowMs, goneSinceMs: undefined }
    return move
  }

  /** Returns what is under way, unless it is done, has failed, helps no more or would hurt by now. */
  #goesOn (servers: readonly PlacedServer[], unserved: readonly Span[], nowMs: number): UnderWay | undefined {
    const current = this.#underWay
    if (current === undefined) return undefined
    const { move: { id, from, to, opens }, sinceMs } = current
    const server = servers.find((other) => other.id === id)
    if (server === undefined) {
      const goneSinceMs = current.goneSinceMs ?? nowMs
      return nowMs - goneSinceMs <= AWAY_LIMIT_MS ? { ...current, goneSinceMs } : this.#giveUp(id, nowMs)
    }
    if (isSame(server.span, to)) return undefined
    const helps = isSame(server.span, from) && (opens ? unserved.length > 0 : unserved.some((span) => commonSpan(span, to) !== undefined))
    if (server.room === undefined || !helps || !mayLeave(this.#options, servers, id)) {
      this.#plan = []
      return undefined
    }
    return nowMs - sinceMs <= MOVE_LIMIT_MS ? { ...current, goneSinceMs: undefined } : this.#giveUp(id, nowMs)
  }

  #giveUp (id: string, nowMs: number): undefined {
    this.#plan = []
    this.#resting.set(id, nowMs + REST_MS)
  }

  /** Returns the next move of the plan, or the first of another plan where that one does not hold any more. */
  #next (servers: readonly PlacedServer[], unserved: readonly Span[], nowMs: number): Move | undefined {
    for (const [id, untilMs] of this.#resting) if (untilMs <= nowMs) this.#resting.delete(id)
    const able = servers.map((server) => this.#resting.has(server.id) ? { ...server, room: undefined } : server)
    if (!this.#isPossible(this.#plan[0], able, unserved)) this.#plan = rebalance(this.#options, able)
    const [move, ...later] = this.#plan
    this.#plan = later
    return move
  }

  #isPossible (move: Move | undefined, servers: readonly PlacedServer[], unserved: readonly Span[]): boolean {
    const server = servers.find(({ id }) => id === move?.id)
    if (move === undefined || server?.room === undefined || !isSame(server.span, move.from)) return false
    if (move.opens) return !isServed(this.#options, servers)
    return unserved.some((span) => commonSpan(span, move.to) !== undefined) && mayLeave(this.#options, servers, move.id)
  }
}

function isSame (a: Span, b: Span): boolean {
  return a.first === b.first && a.end === b.end
}
