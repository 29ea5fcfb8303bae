import type { Sequences } from '../../model/layers/hidden-states.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import type { SecureReply, SecureStep } from './aggregation/secure/messages.ts'
import type { Clock } from './clock.ts'
import { ReplyCollector } from './reply-collector.ts'
import type { Contribution } from './update.ts'
import { WaitingTime } from './waiting-time.ts'

/** A client's hidden states in the encoding of the wire, and how they fall into sequences. */
export interface ForwardReply extends Sequences {
  readonly tensors: readonly Tensor[]
}

/** A client's gradients in the encoding of the wire, of the sum of the loss over `tokens`. */
export interface BackwardReply {
  readonly tokens: number
  readonly tensors: readonly Tensor[]
}

/** How often the passes of a round restart for one client that was cut off: it holds up the others each time. */
const MAX_RESTARTS = 3

type Collector =
  | ReplyCollector<ForwardReply>
  | ReplyCollector<BackwardReply>
  | ReplyCollector<number>
  | ReplyCollector<Contribution>
  | ReplyCollector<SecureReply>

export interface RoundOptions {
  readonly number: number
  /** The participants, with the blocks that each does not compute itself. */
  readonly spans: ReadonlyMap<string, Span>
  /** How long the round waits for one participant, all of its replies together. */
  readonly deadlineMs: number
  readonly clock: Clock
}

/**
 * One round as it goes on: the replies that it waits for, and the answers that it gave in the current pass. Each participant replies twice
 * in each pass, and once after the last pass, or twice where all are clipped by one norm. All replies of one participant share one
 * deadline. A client that was cut off sends its replies again: those that were taken are kept, and what they were answered is repeated.
 *
 * Of the passes that are over only sums are left, and a coefficient that was told has everybody's norm in it. Nobody's part can be taken
 * out of these, and a client that was cut off has lost its own sums. Then the passes restart, with that client or without it.
 */
export class Round {
  readonly number: number
  /** The current pass, from 0. */
  pass = 0
  forward: ReplyCollector<ForwardReply>
  backward: ReplyCollector<BackwardReply> | undefined
  /** L2 norms of the gradients of the clients' own blocks. */
  norm: ReplyCollector<number> | undefined
  contribution: ReplyCollector<Contribution> | undefined
  /** The step of a secure sum that replies are due for, in place of contributions. */
  #secure: { readonly attempt: number, readonly step: SecureStep, readonly replies: ReplyCollector<SecureReply> } | undefined
  #attempts = 0
  /** What participants were answered in this pass, by peer, as it was sent. */
  readonly hidden = new Map<string, readonly Tensor[]>()
  readonly gradients = new Map<string, readonly Tensor[]>()
  readonly #spans: Map<string, Span>
  readonly #left = new Set<string>()
  readonly #waiting: WaitingTime
  readonly #clock: Clock
  #coefficient: number | undefined
  /** The peers whose work is in the passes that are over, or in the coefficient. */
  #included: ReadonlySet<string> = new Set()
  #restartRequested = false
  /** How often the passes restarted for each peer. */
  readonly #restarts = new Map<string, number>()
  #isClosed = false

  constructor ({ number, spans, deadlineMs, clock }: RoundOptions) {
    this.number = number
    this.#spans = new Map(spans)
    this.#waiting = new WaitingTime(deadlineMs)
    this.#clock = clock
    this.forward = this.#collector(spans.keys())
  }

  /** Notes other blocks of a participant that changed its partition. Returns false where the round has some of its work already. */
  changeSpan (peer: string, span: Span): boolean {
    if (this.pass > 0 || !this.forward.expects(peer)) return false
    this.#spans.set(peer, span)
    return true
  }

  /** The peers that are expected to see the round through. */
  get participants (): string[] { return [...this.#spans.keys()].filter((peer) => this.has(peer)).sort() }

  /** The participants whose next reply is missing. */
  get waitingFor (): string[] { return this.#current.missing }

  /** Whether this peer has a part in the round, and did not leave it. */
  has (peer: string): boolean { return this.#spans.has(peer) && !this.#left.has(peer) }

  /** The blocks that this participant does not compute itself. Throws RangeError for a peer that never had a part in the round. */
  spanOf (peer: string): Span {
    const span = this.#spans.get(peer)
    if (span === undefined) throw new RangeError(`${peer} has no part in round ${this.number}`)
    return span
  }

  /** The milliseconds that the round has waited for this participant since the passes last restarted through no fault of its own. */
  waitedMs (peer: string): number { return this.#waiting.of(peer) }

  expectBackward (peers: Iterable<string>): ReplyCollector<BackwardReply> {
    return this.backward = this.#collector(peers)
  }

  expectNorm (peers: Iterable<string>): ReplyCollector<number> {
    return this.norm = this.#collector(peers)
  }

  expectContribution (peers: Iterable<string>): ReplyCollector<Contribution> {
    return this.contribution = this.#collector(peers)
  }

  /** Returns the number of a new attempt at a secure sum. */
  nextAttempt (): number {
    return this.#attempts++
  }

  expectSecure (attempt: number, step: SecureStep, peers: Iterable<string>): ReplyCollector<SecureReply> {
    const replies = this.#collector<SecureReply>(peers)
    this.#secure = { attempt, step, replies }
    return replies
  }

  /** Takes a reply to a step of a secure sum. Returns false where none is due for that step of that attempt. */
  addSecure (peer: string, attempt: number, reply: SecureReply): boolean {
    const due = this.#secure
    return due?.attempt === attempt && due.step === reply.step && due.replies.add(peer, reply)
  }

  /** Goes on with a secure sum without a client that came back: it has lost its keys, and takes part in the next attempt. */
  loseKeys (peer: string): void {
    this.#secure?.replies.drop(peer)
  }

  /**
   * Whether shares of a secure sum are being revealed: the passes cannot restart then, and a client that comes back has nothing more to
   * do.
   */
  get isRevealing (): boolean { return this.#secure?.step === 'reveal' }

  /** Notes that these peers multiply their gradients by a coefficient. From here on the round needs all of them, or restarts. */
  clipBy (coefficient: number, peers: Iterable<string>): void {
    if (this.#restartRequested) return
    this.#coefficient = coefficient
    this.#included = new Set(peers)
  }

  /** What this peer multiplies its gradients by, where its own norm is in the coefficient. */
  coefficientOf (peer: string): number | undefined {
    return this.#included.has(peer) ? this.#coefficient : undefined
  }

  /** Starts the next pass with these peers, whose work is in all passes until now. */
  nextPass (peers: Iterable<string>): void {
    this.#included = new Set(peers)
    this.#startPass(this.pass + 1, this.#included)
  }

  /**
   * Keeps only these peers in the round. Returns false where the round cannot go on: it was closed, or the passes have to restart, since
   * what is over contains the work of another peer.
   */
  retain (peers: { has: (peer: string) => boolean }): boolean {
    if (this.#isClosed || this.#restartRequested) return false
    const before = this.#included.size
    this.#included = new Set([...this.#included].filter((peer) => peers.has(peer)))
    return this.#included.size === before
  }

  /** Restarts with the first pass. Returns the peers that are still in it. */
  restart (): string[] {
    this.#restartRequested = false
    this.#waiting.restart(this.#restarts)
    const peers = this.#included
    this.#included = new Set()
    this.#startPass(0, peers)
    return this.forward.missing
  }

  /** Stops the round where it is, because a participant that was cut off begins with the first pass again, which is over. */
  requestRestart (peer: string): void {
    if (this.#restartRequested || this.isRevealing || !this.#included.has(peer)) return
    const restarts = (this.#restarts.get(peer) ?? 0) + 1
    this.#restarts.set(peer, restarts)
    if (restarts > MAX_RESTARTS) this.#included = this.#included.difference(new Set([peer]))
    this.#restartRequested = true
    this.#current.close()
  }

  /** Goes on without a participant that left. What it had seen through before counts. */
  drop (peer: string): void {
    this.#left.add(peer)
    this.#current.drop(peer)
  }

  /** Ends the round: collectors are done with what they have, and later ones with nothing. */
  close (): void {
    this.#isClosed = true
    this.#current.close()
  }

  /** The collector of the replies that are due; those before it are done. */
  get #current (): Collector {
    return this.#secure?.replies ?? this.contribution ?? this.norm ?? this.backward ?? this.forward
  }

  /** A collector of replies of those who are still there: a peer may have left, or the round been stopped, during a computation. */
  #collector<Reply> (peers: Iterable<string>): ReplyCollector<Reply> {
    const expected = this.#isClosed || this.#restartRequested ? [] : [...peers].filter((peer) => this.has(peer))
    return new ReplyCollector(expected, this.#waiting, this.#clock)
  }

  #startPass (pass: number, peers: Iterable<string>): void {
    this.pass = pass
    this.hidden.clear()
    this.gradients.clear()
    this.backward = undefined
    this.norm = undefined
    this.#coefficient = undefined
    this.contribution = undefined
    this.#secure = undefined
    this.forward = this.#collector(peers)
  }
}
