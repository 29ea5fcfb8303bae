import { setTimeout as delay } from 'node:timers/promises'
import type { Charter } from '../../protocols/charter/schema.ts'
import { fromServer } from '../../protocols/train/messages.ts'
import type { Logger } from '../context.ts'
import type { LocalStage } from '../middle/local-stage.ts'
import type { FederatedAdapters, StepTaken } from './aggregation/federated-adapters.ts'
import { participants } from './aggregation/sequential.ts'
import type { CoordinatorState } from './coordinator-state.ts'
import { Members, type Member } from './members.ts'
import { systemTimer, type Timer } from './reply-collector.ts'
import { RoundExecution, type AcceptedUpdate } from './round-execution.ts'
import { Round } from './round.ts'

export interface CoordinatorComponents {
  readonly charter: Charter
  readonly middle: LocalStage
  readonly adapters: FederatedAdapters
  readonly state: CoordinatorState
  readonly logger: Logger
  readonly timer?: Timer
}

/** A pause after a round that failed on this server's own account, so that a fault that lasts does not spin. */
const FAILURE_PAUSE_MS = 1_000

/**
 * Runs rounds for as long as there are members: the passes of all who take part; one optimiser step; a snapshot; and only then the
 * word that the step is taken.
 */
export class Coordinator {
  readonly members: Members
  readonly #charter: Charter
  readonly #middle: LocalStage
  readonly #adapters: FederatedAdapters
  readonly #state: CoordinatorState
  readonly #timer: Timer
  readonly #logger: Logger
  #current: Round | undefined

  constructor ({ charter, middle, adapters, state, logger, timer = systemTimer }: CoordinatorComponents) {
    this.#charter = charter
    this.#middle = middle
    this.#adapters = adapters
    this.#state = state
    this.#timer = timer
    this.#logger = logger
    // Members of before a restart are expected back: the round they were in waits for them, until its deadline.
    this.members = new Members(charter.limits.maxClients, state.members)
  }

  /** The number of rounds whose step has been taken. */
  get round (): number { return this.#state.round }

  /** Members that the next round needs. In turns, a member that is done leaves the others to theirs. */
  get needed (): number { return this.#charter.strategy === 'sequential' && this.round > 0 ? 1 : this.#charter.training.minClients }

  /** The round in progress. */
  get current (): Round | undefined { return this.#current }

  /** Runs until the signal aborts. */
  async run (signal: AbortSignal): Promise<void> {
    const close = (): void => { this.#current?.close() }
    signal.addEventListener('abort', close, { once: true })
    try {
      while (!signal.aborted) {
        await this.members.quorum(this.needed, signal)
        await this.#runRound(signal).catch(async (error: unknown) => {
          this.#logger.error({ err: error, round: this.round }, 'a round failed')
          if (this.#current !== undefined) this.#dismiss(this.#current)
          await delay(FAILURE_PAUSE_MS, undefined, { signal })
        })
      }
    } catch (error) {
      if (!signal.aborted) throw error
    } finally {
      signal.removeEventListener('abort', close)
    }
  }

  /** Tells a member that a round waits for it. */
  begin (peer: string, round: Round): void {
    const { roundDeadlineMs } = this.#charter.training
    const members = this.members.size
    if (round.has(peer))
      this.members.say(peer, fromServer({ case: 'begin', value: { round: round.number, members, deadlineMs: roundDeadlineMs } }))
    else this.members.say(peer, fromServer({ case: 'waiting', value: { members, needed: this.needed } }))
  }

  /** A member said goodbye: nobody waits for it any more. */
  withdraw (peer: string): void {
    this.members.remove(peer)
    this.#current?.drop(peer)
  }

  async #runRound (signal: AbortSignal): Promise<void> {
    if (signal.aborted) return
    const { strategy, training: { roundDeadlineMs } } = this.#charter
    const invited = participants(strategy, this.members.peers, this.#state.lastTurn)
    const spans = new Map(invited.map((peer) => [peer, (this.members.get(peer) as Member).span]))
    const round = new Round(this.#state.round, spans, roundDeadlineMs, this.#timer)
    this.#current = round
    for (const { peer } of this.members.all) this.begin(peer, round)
    for (;;) {
      using attempt = new RoundExecution({
        charter: this.#charter,
        middle: this.#middle,
        adapters: this.#adapters,
        members: this.members,
        logger: this.#logger
      }, round)
      const counted = await attempt.run()
      if (signal.aborted) return
      if (counted?.length === 0) return this.#dismiss(round)
      if (counted !== undefined) return await this.#commit(round, attempt, counted)
      for (const peer of round.restart()) this.begin(peer, round)
    }
  }

  /** Takes the step, makes it durable, and only then says so. */
  async #commit (round: Round, { gradients, coefficient }: RoundExecution, counted: readonly AcceptedUpdate[]): Promise<void> {
    const finished = new Set(counted.map(({ peer }) => peer))
    let step: StepTaken
    try {
      step = await this.#adapters.step(round.number, gradients, counted, coefficient)
      await this.#state.commit({
        round: round.number + 1,
        lastTurn: counted.at(-1)?.peer,
        counted: [...finished],
        members: this.members.all.filter(({ peer }) => finished.has(peer) || !round.has(peer)).map(({ peer, span }) => ({ peer, span })),
        unaveragedTokens: step.unaveragedTokens,
        tensors: step.tensors
      })
    } catch (error) {
      // The round will be tried again, from where it began.
      await this.#adapters.revert()
      throw error
    }
    this.#current = undefined
    // Streams as they are now: a client that came back while the step was written waits for it on its new one.
    const audience = this.members.all
    const missed = this.#removeMissing(round, finished)
    for (const { peer, span, channel } of audience) {
      const { names, tensors } = step.for(span)
      const message = fromServer({
        case: 'step',
        value: { round: round.number, scale: step.scale, leftOut: missed.has(peer), names, members: this.members.size }
      })
      this.members.say(peer, message, tensors, channel)
    }
  }

  /** Nobody saw the round through: it is tried again with those who are there. */
  #dismiss (round: Round): void {
    this.#current = undefined
    const audience = this.members.all
    const missed = this.#removeMissing(round, new Set())
    for (const { peer, channel } of audience) {
      if (missed.has(peer)) this.members.say(peer, fromServer({ case: 'withdrawn', value: {} }), [], channel)
    }
  }

  /** A participant that missed the deadline is a member no longer, until it enlists again: it holds up one round, not every one. */
  #removeMissing (round: Round, finished: ReadonlySet<string>): Set<string> {
    const missed = new Set(round.participants.filter((peer) => !finished.has(peer)))
    for (const peer of missed) this.members.remove(peer)
    return missed
  }
}
