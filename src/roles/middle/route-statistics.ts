import type { Span } from '../../span.ts'
import type { StageCache } from './stage.ts'

/** What one server did for a sequence. */
export interface LegStatistics {
  readonly server: string
  readonly span: Span
  /** Tokens that it computed. */
  readonly tokens: number
  /** Tokens among them that it was sent in place of a stage that was lost. */
  readonly replayedTokens: number
  /** Answers that it gave. */
  readonly answers: number
  /** Milliseconds that it needed for all answers together, as it says itself; where it does not say, until they were here. */
  readonly ms: number
  /** Whether its hidden states went from it to the next server, and not over this machine. */
  readonly handsOver: boolean
  /** Bytes on the wire; 0 where the stage is on this machine. */
  readonly sentBytes: number
  readonly receivedBytes: number
}

/** What counts the bytes of a session. */
export interface CountedBytes {
  readonly sentBytes: number
  readonly receivedBytes: number
}

/** A session with a server, or what stands for one on this machine. */
interface Counted {
  readonly traffic?: CountedBytes
}

/** The cache of a stage, or what stands for one. */
type CountedCache = Counted & Pick<StageCache, 'parts' | 'serverMs'>

interface Leg extends Omit<LegStatistics, keyof CountedBytes> {
  tokens: number
  replayedTokens: number
  answers: number
  ms: number
  handsOver: boolean
  /** Sessions that are open. */
  readonly sessions: Set<Counted>
  /** Bytes of the sessions that are over. */
  over: CountedBytes
}

export interface Answer {
  readonly tokens: number
  readonly ms: number
  readonly isReplay: boolean
}

/** Counts what each server of a route does for a sequence, those that were lost included. */
export class RouteStatistics {
  readonly #legs = new Map<string, Leg>()
  #networkMs = 0

  /** What each server did, in the order of the blocks. */
  get legs (): readonly LegStatistics[] {
    return [...this.#legs.values()]
      .map(({ sessions, over, ...leg }) => ({ ...leg, ...total([over, ...[...sessions].flatMap(({ traffic }) => traffic ?? [])]) }))
      .sort((a, b) => a.span.first - b.span.first)
  }

  /** Bytes on the wire, of all servers. */
  get traffic (): CountedBytes {
    return total(this.legs)
  }

  /** Milliseconds of answers in which no server that says its time had the hidden states: they were on their way. */
  get networkMs (): number { return this.#networkMs }

  opened (server: string, span: Span, cache: CountedCache): void {
    for (const part of partsOf(server, span, cache)) this.#leg(part.server, part.span).sessions.add(part.session)
  }

  closed (server: string, span: Span, cache: CountedCache): void {
    for (const part of partsOf(server, span, cache)) {
      const leg = this.#leg(part.server, part.span)
      if (leg.sessions.delete(part.session) && part.session.traffic !== undefined) leg.over = total([leg.over, part.session.traffic])
    }
  }

  answered (server: string, span: Span, cache: CountedCache, { tokens, ms, isReplay }: Answer): void {
    const parts = partsOf(server, span, cache)
    let restMs = ms
    for (const [index, part] of parts.entries()) {
      const leg = this.#leg(part.server, part.span)
      // What a server says of itself is no more than what was measured here.
      const ownMs = Math.min(cache.serverMs?.[index] ?? ms / parts.length, restMs)
      restMs -= ownMs
      leg.tokens += tokens
      if (isReplay) leg.replayedTokens += tokens
      leg.answers++
      leg.ms += ownMs
      leg.handsOver = index < parts.length - 1
    }
    if (cache.serverMs !== undefined) this.#networkMs += restMs
  }

  #leg (server: string, { first, end }: Span): Leg {
    const key = `${server} ${first} ${end}`
    const known = this.#legs.get(key)
    if (known !== undefined) return known
    const leg: Leg = {
      server, span: { first, end }, tokens: 0, replayedTokens: 0, answers: 0, ms: 0, handsOver: false, sessions: new Set(), over: total([])
    }
    this.#legs.set(key, leg)
    return leg
  }
}

/** What each server of a stage has: of one server alone, the cache itself is its session. */
function partsOf (server: string, span: Span, cache: CountedCache): Array<{ server: string, span: Span, session: Counted }> {
  return cache.parts?.map((part) => ({ server: part.server, span: part.span, session: part })) ?? [{ server, span, session: cache }]
}

function total (parts: readonly CountedBytes[]): CountedBytes {
  return {
    sentBytes: parts.reduce((sum, { sentBytes }) => sum + sentBytes, 0),
    receivedBytes: parts.reduce((sum, { receivedBytes }) => sum + receivedBytes, 0)
  }
}
