import type { Span } from '../../span.ts'
import { joinTensorRows, type Tensor } from '../../tensor.ts'
import type { Arithmetic } from './arithmetic.ts'
import { firstTokens } from './history.ts'
import { tokensOf, type CachedHiddenStates, type StageCache } from './stage.ts'

/** What one server was sent in one session from the first position on, and what it answered. */
export interface StageRecord {
  readonly server: string
  readonly span: Span
  readonly arithmetic: Arithmetic
  /** What it was sent, in order, as it was sent. */
  readonly states: readonly CachedHiddenStates[]
  /** What it answered to these states: [tokens, hidden] in the encoding of the wire. */
  readonly outputs: readonly Tensor[]
  /** The round of its adapters, as it said with each answer: one for each token. */
  readonly rounds: ReadonlyArray<number | undefined>
}

/** Sessions of one sequence that are kept. A sequence whose servers fail again and again begins a session each time. */
const MAX_SESSIONS = 16

interface Session {
  readonly server: string
  readonly span: Span
  readonly arithmetic: Arithmetic
  states: CachedHiddenStates[]
  /** One message's answer each; the context is of no use here. */
  outputs: CachedHiddenStates[]
  rounds: Array<number | undefined>
}

/**
 * Keeps what the servers of a route answered in one sequence, so that it can be checked afterwards. Of a route's stages each one's answers
 * are the next one's inputs, which the route keeps anyway: a record takes the memory of the last stage's answers besides.
 */
export class RouteRecord {
  readonly #sessions = new Map<StageCache, Session>()

  /** Notes an answer. What was answered before at the same and at later positions is forgotten. */
  answered ({ server, span }: Pick<StageRecord, 'server' | 'span'>, cache: StageCache, states: CachedHiddenStates, tensors: readonly Tensor[]): void {
    const { arithmetic, round } = cache
    if (arithmetic === undefined) return
    let session = this.#sessions.get(cache)
    if (session === undefined) {
      const [oldest] = this.#sessions.keys()
      if (oldest !== undefined && this.#sessions.size >= MAX_SESSIONS) this.#sessions.delete(oldest)
      this.#sessions.set(cache, session = { server, span, arithmetic, states: [], outputs: [], rounds: [] })
    }
    const tokens = tokensOf(states.tensors)
    const position = cache.length - tokens
    if (position < session.rounds.length) {
      session.states = firstTokens(session.states, position)
      session.outputs = firstTokens(session.outputs, position)
      session.rounds.length = position
    }
    session.states.push(states)
    session.outputs.push({ tensors, context: undefined })
    for (let i = 0; i < tokens; i++) session.rounds.push(round)
  }

  /** The records of all sessions in which something was answered. */
  get stages (): StageRecord[] {
    return [...this.#sessions.values()].map(({ outputs, ...session }) => ({
      ...session,
      outputs: outputs[0]!.tensors.map((_, part) => joinTensorRows(outputs.map(({ tensors }) => tensors[part]!)))
    }))
  }
}
