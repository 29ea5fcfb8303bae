import type { Sequences } from '../../model/layers/hidden-states.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import { ReplyCollector, type Timer } from './reply-collector.ts'

/** A client's hidden rows as they came over the wire. */
export interface ForwardReply extends Sequences {
  readonly tensors: readonly Tensor[]
}

/** A client's gradient rows as they came over the wire, of the sum of the loss over `tokens`. */
export interface BackwardReply {
  readonly tokens: number
  readonly tensors: readonly Tensor[]
}

/** The L2 norm of the gradients of a client's own blocks. */
export type NormReply = number

/** What a client's own blocks add: adapter gradients or adapters, by name. */
export type ContributionReply = ReadonlyMap<string, Tensor>

/** How often the passes of a round begin anew for one client that was cut off: it holds up the others each time. */
const MAX_RETURNS = 3

/**
 * One round: two answers from each participant in each pass and one after the last, or two where all are clipped together, each with
 * the same deadline, and the replies given so far in the pass. A client that was cut off sends its answers again; those already in are
 * kept and their replies repeated.
 *
 * Of passes gone by only sums are left. Nobody's part can be taken out of them, and a client that is cut off loses its own: then the
 * passes begin anew, without it or with it. A coefficient that is told is of that kind too: nobody's norm can be taken out of it.
 */
export class Round {
  readonly number: number
  /** The pass in progress, from 0. */
  pass = 0
  forward: ReplyCollector<ForwardReply>
  backward: ReplyCollector<BackwardReply> | undefined
  norm: ReplyCollector<NormReply> | undefined
  contribution: ReplyCollector<ContributionReply> | undefined
  /** Replies of this pass by peer, as sent. */
  readonly hidden = new Map<string, readonly Tensor[]>()
  readonly gradients = new Map<string, readonly Tensor[]>()
  readonly #spans: ReadonlyMap<string, Span>
  readonly #excused = new Set<string>()
  #coefficient: number | undefined
  /** Whose work is in the passes gone by, or in the coefficient. */
  #aboard: ReadonlySet<string> = new Set()
  #behind = false
  readonly #returns = new Map<string, number>()
  #closed = false
  readonly #deadlineMs: number
  readonly #timer: Timer

  constructor (number: number, spans: ReadonlyMap<string, Span>, deadlineMs: number, timer: Timer) {
    this.number = number
    this.#spans = spans
    this.#deadlineMs = deadlineMs
    this.#timer = timer
    this.forward = new ReplyCollector(spans.keys(), deadlineMs, timer)
  }

  /** Who is expected to see the round through. */
  get participants (): string[] { return [...this.#spans.keys()].filter((peer) => this.has(peer)).sort() }

  /** Participants whose next answer is missing. */
  get waitingFor (): string[] { return (this.contribution ?? this.norm ?? this.backward ?? this.forward).missing }

  /** Whether this peer has a part in the round, and did not leave it. */
  has (peer: string): boolean { return this.#spans.has(peer) && !this.#excused.has(peer) }

  /** The blocks that the rows of whoever began the round pass in it. */
  spanOf (peer: string): Span {
    const span = this.#spans.get(peer)
    if (span === undefined) throw new RangeError(`${peer} has no part in round ${this.number}`)
    return span
  }

  expectBackward (peers: Iterable<string>): ReplyCollector<BackwardReply> {
    return this.backward = new ReplyCollector(this.#staying(peers), this.#deadlineMs, this.#timer)
  }

  expectNorm (peers: Iterable<string>): ReplyCollector<NormReply> {
    return this.norm = new ReplyCollector(this.#staying(peers), this.#deadlineMs, this.#timer)
  }

  /** All of these multiply their gradients by a coefficient: from here on the round goes on with every one of them, or begins anew. */
  clipBy (coefficient: number, peers: Iterable<string>): void {
    if (this.#behind) return
    this.#coefficient = coefficient
    this.#aboard = new Set(peers)
  }

  /** What this peer multiplies its gradients by, where its own norm is in it. */
  coefficientOf (peer: string): number | undefined {
    return this.#aboard.has(peer) ? this.#coefficient : undefined
  }

  expectContribution (peers: Iterable<string>): ReplyCollector<ContributionReply> {
    return this.contribution = new ReplyCollector(this.#staying(peers), this.#deadlineMs, this.#timer)
  }

  /** Goes on to the next pass, with those whose work is in all until now. */
  nextPass (peers: Iterable<string>): void {
    this.#aboard = new Set(peers)
    this.#startPass(this.pass + 1)
  }

  /**
   * Whether the passes gone by are the work of nobody else than these. The others are left behind; then, or when the round was closed, it
   * does not go on.
   */
  retain (peers: { has: (peer: string) => boolean }): boolean {
    if (this.#closed || this.#behind) return false
    const before = this.#aboard.size
    this.#aboard = new Set([...this.#aboard].filter((peer) => peers.has(peer)))
    return this.#aboard.size === before
  }

  /** Begins again with the first pass. Returns those who are still in it. */
  restart (): string[] {
    this.#behind = false
    const peers = this.#aboard
    this.#aboard = new Set()
    this.#startPass(0, peers)
    return this.forward.missing
  }

  /** A participant has come back and begins with the first pass again, which is over: the round stops where it is. */
  requestRestart (peer: string): void {
    if (this.#behind || !this.#aboard.has(peer)) return
    const returns = (this.#returns.get(peer) ?? 0) + 1
    this.#returns.set(peer, returns)
    if (returns > MAX_RETURNS) this.#aboard = this.#aboard.difference(new Set([peer]))
    this.#behind = true
    this.#open()
  }

  /** Goes on without a participant that left. What it had seen through before counts. */
  drop (peer: string): void {
    this.#excused.add(peer)
    this.forward.drop(peer)
    this.backward?.drop(peer)
    this.norm?.drop(peer)
    this.contribution?.drop(peer)
  }

  /** A peer may have left, or the round been stopped, while answers were worked on. */
  #staying (peers: Iterable<string>): string[] {
    return this.#closed || this.#behind ? [] : [...peers].filter((peer) => this.has(peer))
  }

  /** Opens every barrier with what there is, and those to come with nothing. */
  close (): void {
    this.#closed = true
    this.#open()
  }

  #startPass (pass: number, peers: Iterable<string> = this.#aboard): void {
    this.pass = pass
    this.hidden.clear()
    this.gradients.clear()
    this.backward = undefined
    this.norm = undefined
    this.#coefficient = undefined
    this.contribution = undefined
    this.forward = new ReplyCollector(this.#staying(peers), this.#deadlineMs, this.#timer)
  }

  #open (): void {
    this.forward.close()
    this.backward?.close()
    this.norm?.close()
    this.contribution?.close()
  }
}
