import type { Span } from '../../span.ts'

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
  /** Milliseconds from the sending of hidden states to their answer, all answers together. */
  readonly ms: number
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

interface Leg extends Omit<LegStatistics, keyof CountedBytes> {
  tokens: number
  replayedTokens: number
  answers: number
  ms: number
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

  opened (server: string, span: Span, session: Counted): void {
    this.#leg(server, span).sessions.add(session)
  }

  closed (server: string, span: Span, session: Counted): void {
    const leg = this.#leg(server, span)
    if (leg.sessions.delete(session) && session.traffic !== undefined) leg.over = total([leg.over, session.traffic])
  }

  answered (server: string, span: Span, { tokens, ms, isReplay }: Answer): void {
    const leg = this.#leg(server, span)
    leg.tokens += tokens
    if (isReplay) leg.replayedTokens += tokens
    leg.answers++
    leg.ms += ms
  }

  #leg (server: string, { first, end }: Span): Leg {
    const key = `${server} ${first} ${end}`
    const known = this.#legs.get(key)
    if (known !== undefined) return known
    const leg: Leg = {
      server, span: { first, end }, tokens: 0, replayedTokens: 0, answers: 0, ms: 0, sessions: new Set(), over: total([])
    }
    this.#legs.set(key, leg)
    return leg
  }
}

function total (parts: readonly CountedBytes[]): CountedBytes {
  return {
    sentBytes: parts.reduce((sum, { sentBytes }) => sum + sentBytes, 0),
    receivedBytes: parts.reduce((sum, { receivedBytes }) => sum + receivedBytes, 0)
  }
}
