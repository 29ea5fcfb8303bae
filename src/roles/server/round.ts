import type { Sequences } from '../../model/training/rows.ts'
import type { Tensor } from '../../tensor.ts'
import type { Span } from './members.ts'
import { Barrier, type Timer } from './barrier.ts'

/** A client's hidden rows as they came over the wire. */
export interface ForwardAnswer extends Sequences {
  readonly tensors: readonly Tensor[]
}

/** A client's gradient rows as they came over the wire, of the sum of the loss over `tokens`. */
export interface BackwardAnswer {
  readonly tokens: number
  readonly tensors: readonly Tensor[]
}

/** What a client's own blocks add: adapter gradients or adapters, by name. */
export type ContributionAnswer = ReadonlyMap<string, Tensor>

/**
 * One round: three answers from each participant, each with the same deadline, and the replies given so far. A client that was cut
 * off sends its answers again; those already in are kept and their replies repeated.
 */
export class Round {
  readonly number: number
  readonly forward: Barrier<ForwardAnswer>
  backward: Barrier<BackwardAnswer> | undefined
  contribution: Barrier<ContributionAnswer> | undefined
  /** Replies by peer, as sent. */
  readonly hidden = new Map<string, readonly Tensor[]>()
  readonly gradients = new Map<string, readonly Tensor[]>()
  readonly #spans: ReadonlyMap<string, Span>
  readonly #excused = new Set<string>()
  #closed = false
  readonly #deadlineMs: number
  readonly #timer: Timer

  constructor (number: number, spans: ReadonlyMap<string, Span>, deadlineMs: number, timer: Timer) {
    this.number = number
    this.#spans = spans
    this.#deadlineMs = deadlineMs
    this.#timer = timer
    this.forward = new Barrier(spans.keys(), deadlineMs, timer)
  }

  /** Who is expected to see the round through. */
  get participants (): string[] { return [...this.#spans.keys()].filter((peer) => this.has(peer)).sort() }

  /** Participants whose next answer is missing. */
  get waitingFor (): string[] { return (this.contribution ?? this.backward ?? this.forward).missing }

  /** Whether this peer has a part in the round, and did not leave it. */
  has (peer: string): boolean { return this.#spans.has(peer) && !this.#excused.has(peer) }

  /** The blocks that the rows of whoever began the round pass in it. */
  spanOf (peer: string): Span {
    const span = this.#spans.get(peer)
    if (span === undefined) throw new RangeError(`${peer} has no part in round ${this.number}`)
    return span
  }

  expectBackward (peers: Iterable<string>): Barrier<BackwardAnswer> {
    return this.backward = new Barrier(this.#staying(peers), this.#deadlineMs, this.#timer)
  }

  expectContribution (peers: Iterable<string>): Barrier<ContributionAnswer> {
    return this.contribution = new Barrier(this.#staying(peers), this.#deadlineMs, this.#timer)
  }

  /** Goes on without a participant that left. What it had seen through before counts. */
  excuse (peer: string): void {
    this.#excused.add(peer)
    this.forward.excuse(peer)
    this.backward?.excuse(peer)
    this.contribution?.excuse(peer)
  }

  /** A peer may have left, or the round been closed, while answers were worked on. */
  #staying (peers: Iterable<string>): string[] {
    return this.#closed ? [] : [...peers].filter((peer) => this.has(peer))
  }

  /** Opens every barrier with what there is, and those to come with nothing. */
  close (): void {
    this.#closed = true
    this.forward.close()
    this.backward?.close()
    this.contribution?.close()
  }
}
