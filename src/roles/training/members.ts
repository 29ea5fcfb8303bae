import { MidspanError } from '../../errors.ts'
import type { Span } from '../../span.ts'
import type { KnownMember } from './coordinator-state.ts'
import type { Participant } from './participant.ts'

/** Thrown when a federation has as many members as its charter allows. */
export class FederationFullError extends MidspanError {
  constructor (limit: number) {
    super('E_FEDERATION_FULL', `the federation already has its ${limit} members`, { next: 'try again when one of them has left' })
  }
}

/** A client that takes part in training. It stays one while it is away, until a round has passed its deadline without it. */
export interface Member {
  readonly peer: string
  readonly span: Span
  /** What carries its messages, while it is there. */
  participant: Participant | undefined
}

/** The clients that take part in training. */
export class Members {
  readonly #members = new Map<string, Member>()
  readonly #limit: number
  #changed = Promise.withResolvers<void>()

  constructor (limit: number, known: Iterable<KnownMember> = []) {
    this.#limit = limit
    for (const { peer, span } of known) this.#members.set(peer, { peer, span, participant: undefined })
  }

  get size (): number { return this.#members.size }
  get peers (): string[] { return [...this.#members.keys()].sort() }
  get all (): Member[] { return this.peers.map((peer) => this.#members.get(peer) as Member) }
  get (peer: string): Member | undefined { return this.#members.get(peer) }

  /** What carries a member's messages, while it is there. */
  participant (peer: string): Participant | undefined { return this.#members.get(peer)?.participant }

  /**
   * Takes a client in, or back. Returns the participant that spoke for it before, if another one did: the newest one speaks for the client.
   * Throws FederationFullError.
   */
  enlist (participant: Participant): Participant | undefined {
    const { peer, span } = participant
    const before = this.#members.get(peer)
    if (before === undefined && this.#members.size >= this.#limit) throw new FederationFullError(this.#limit)
    this.#members.set(peer, { peer, span, participant })
    this.#notify()
    return before?.participant === participant ? undefined : before?.participant
  }

  /** Notes that a participant cannot be reached any more. Its client remains a member. */
  detach (participant: Participant): void {
    const member = this.#members.get(participant.peer)
    if (member?.participant === participant) member.participant = undefined
  }

  remove (peer: string): void {
    if (this.#members.delete(peer)) this.#notify()
  }

  /** Resolves when there are at least this many members. Rejects with the signal's reason. */
  async quorum (least: number, signal: AbortSignal): Promise<void> {
    const aborted = Promise.withResolvers<never>()
    aborted.promise.catch(() => {})
    const abort = (): void => { aborted.reject(signal.reason) }
    signal.addEventListener('abort', abort, { once: true })
    try {
      signal.throwIfAborted()
      while (this.#members.size < least) await Promise.race([this.#changed.promise, aborted.promise])
    } finally {
      signal.removeEventListener('abort', abort)
    }
  }

  #notify (): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }
}
