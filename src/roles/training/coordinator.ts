import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from '../logger.ts'
import { SecureExchange, type SecureExchangeComponents } from './aggregation/secure/exchange.ts'
import type { AggregationStrategy, StepTaken } from './aggregation/strategy.ts'
import { Attendance, laggards, type Conduct } from './attendance.ts'
import { systemClock, type Clock } from './clock.ts'
import type { StateStore } from './coordinator-state.ts'
import { Members, type Member } from './members.ts'
import type { Participant, TrainingStage } from './participant.ts'
import type { TrainingPlan } from './plan.ts'
import { RoundExecution } from './round-execution.ts'
import { Round } from './round.ts'
import type { AcceptedUpdate } from './update.ts'

export interface CoordinatorComponents {
  readonly plan: TrainingPlan
  readonly stage: TrainingStage
  readonly strategy: AggregationStrategy
  readonly state: StateStore
  readonly logger: Logger
  readonly clock?: Clock
  /** What a secure sum needs; absent where clients hand their contributions in. */
  readonly secure?: Omit<SecureExchangeComponents, 'members' | 'logger'> | undefined
  /** Called when a step was made durable. */
  readonly stepped?: () => void
}

/** The pause after a round that failed on this server's own account, so that a fault that lasts does not spin. */
const FAILURE_PAUSE_MS = 1_000

/**
 * Runs rounds for as long as there are members: the passes of all who take part, one optimiser step, a snapshot, and only then the word
 * that the step is taken.
 */
export class Coordinator {
  readonly members: Members
  readonly #plan: TrainingPlan
  readonly #stage: TrainingStage
  readonly #strategy: AggregationStrategy
  readonly #state: StateStore
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #stepped: () => void
  readonly #secure: SecureExchange | undefined
  readonly #attendance = new Attendance()
  #current: Round | undefined
  #isStepping = false

  constructor ({ plan, stage, strategy, state, logger, secure, clock = systemClock, stepped = () => {} }: CoordinatorComponents) {
    this.#plan = plan
    this.#stage = stage
    this.#strategy = strategy
    this.#state = state
    this.#clock = clock
    this.#logger = logger
    this.#stepped = stepped
    // Members of before a restart are expected back: the round that they were in waits for them, until its deadline.
    this.members = new Members(plan.limits.maxClients, state.members)
    this.#secure = secure === undefined ? undefined : new SecureExchange({ ...secure, members: this.members, logger })
  }

  /** The number of rounds whose step has been taken. */
  get round (): number { return this.#state.round }

  /** Whether a step is being taken that is not durable yet: parameters may have changed already. */
  get isStepping (): boolean { return this.#isStepping }

  /** Members that the next round needs. */
  get needed (): number { return this.#strategy.selection.needed(this.round) }

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

  /**
   * Takes a client in, or back, that has seen this many rounds. The client hears where training stands, and begins the round in progress
   * if it has a part in it. Throws FederationFullError.
   */
  async enlist (participant: Participant, clientRound: number): Promise<void> {
    const { peer, span } = participant
    const missed = this.#strategy.stateFor(span, clientRound)
    const round = this.#current
    if (round?.has(peer) === true && !isSameSpan(round.spanOf(peer), span) && !round.changeSpan(peer, span)) round.drop(peer)
    round?.loseKeys(peer)
    this.members.enlist(participant)?.replaced()
    await participant.enlisted({
      round: this.round,
      countedRound: this.#state.countedRound(peer),
      members: this.members.size,
      ...missed
    })
    // All members have heard of a round that began in the meantime.
    if (this.#current === undefined || this.#current === round) this.#tellRound(participant, this.#current)
  }

  /** Notes that a participant cannot be reached any more. The round waits for its client until the deadline. */
  detach (participant: Participant): void {
    this.members.detach(participant)
  }

  /** Stops waiting for a member that said goodbye. */
  withdraw (peer: string): void {
    this.members.remove(peer)
    this.#current?.drop(peer)
  }

  /** Stops waiting for a member that lost its place in the federation, and forgets it. */
  expel (peer: string): void {
    this.withdraw(peer)
    this.#attendance.forget(peer)
  }

  /** Tells a participant that a round waits for it, or why it has nothing to do. */
  #tellRound (participant: Participant, round: Round | undefined): void {
    const { peer } = participant
    const members = this.members.size
    if (round?.has(peer) === true && !round.isRevealing)
      return participant.begin({ round: round.number, members, deadlineMs: this.#plan.training.roundDeadlineMs })
    const sitsOutRounds = this.#attendance.sitsOut(peer, this.round)
    if (round !== undefined || sitsOutRounds > 0 || members < this.needed)
      participant.waiting({ members, needed: this.needed, sitsOutRounds })
  }

  async #runRound (signal: AbortSignal): Promise<void> {
    if (signal.aborted) return
    const { roundDeadlineMs, gradientAccumulationSteps } = this.#plan.training
    const eligible = this.#attendance.eligible(this.members.peers, this.round, this.needed)
    const participants = this.#strategy.selection.participants(eligible, this.#state.lastTurn)
    const round = new Round({
      number: this.round,
      spans: new Map(participants.map((peer) => [peer, (this.members.get(peer) as Member).span])),
      deadlineMs: roundDeadlineMs,
      clock: this.#clock
    })
    this.#current = round
    for (const { participant } of this.members.all) if (participant !== undefined) this.#tellRound(participant, round)
    const components = {
      stage: this.#stage, strategy: this.#strategy, members: this.members, logger: this.#logger, secure: this.#secure
    }
    for (;;) {
      using execution = new RoundExecution(components, round, gradientAccumulationSteps)
      const accepted = await execution.run()
      if (signal.aborted) return
      if (accepted?.length === 0) {
        this.#recordConduct(round, new Set())
        return this.#dismiss(round)
      }
      if (accepted !== undefined) return await this.#commit(round, execution, accepted)
      for (const peer of round.restart()) {
        const participant = this.members.participant(peer)
        if (participant !== undefined) this.#tellRound(participant, round)
      }
    }
  }

  /** Takes the step, makes it durable, and only then says so. */
  async #commit (round: Round, { gradients, coefficient }: RoundExecution, accepted: readonly AcceptedUpdate[]): Promise<void> {
    const finished = new Set(accepted.map(({ peer }) => peer))
    let step: StepTaken
    this.#isStepping = true
    try {
      step = await this.#strategy.step(round.number, gradients, accepted, coefficient)
      await this.#state.commit({
        round: round.number + 1,
        lastTurn: accepted.at(-1)?.peer,
        counted: [...finished],
        members: this.members.all.filter(({ peer }) => finished.has(peer) || !round.has(peer)).map(({ peer, span }) => ({ peer, span })),
        unaveragedTokens: step.unaveragedTokens,
        replicas: step.replicas,
        tensors: step.tensors
      })
    } catch (error) {
      // The round will be tried again, from where it began.
      await this.#strategy.revert()
      throw error
    } finally {
      this.#isStepping = false
    }
    this.#current = undefined
    this.#stepped()
    this.#recordConduct(round, finished)
    // Participants as they are now: a client that came back while the step was written waits for it on its new stream.
    const audience = this.members.all
    const missed = this.#removeMissing(round, finished)
    for (const { peer, span, participant } of audience) {
      participant?.step({
        round: round.number,
        scale: step.scale,
        leftOut: missed.has(peer),
        members: this.members.size,
        ...step.for(span)
      })
    }
  }

  /** Ends a round that nobody saw through. It is tried again with those who are there. */
  #dismiss (round: Round): void {
    this.#current = undefined
    const audience = this.members.all
    const missed = this.#removeMissing(round, new Set())
    for (const { peer, participant } of audience) if (missed.has(peer)) participant?.dismissed()
  }

  /** Removes participants that did not see the round through from the members, until they enlist again: they hold up one round, not all. */
  #removeMissing (round: Round, finished: ReadonlySet<string>): Set<string> {
    const missed = new Set(round.participants.filter((peer) => !finished.has(peer)))
    for (const peer of missed) this.members.remove(peer)
    return missed
  }

  /** Notes who replied in time, who held the others up and who was left out. Those who do so again and again sit out. */
  #recordConduct (round: Round, finished: ReadonlySet<string>): void {
    const waited = new Map(round.participants.map((peer) => [peer, round.waitedMs(peer)]))
    const lagged = laggards(waited, this.#plan.training.roundDeadlineMs)
    for (const [peer, waitedMs] of waited) {
      const conduct: Conduct = !finished.has(peer) ? 'missed' : lagged.has(peer) ? 'lagged' : 'punctual'
      const sitsOutRounds = this.#attendance.record(peer, round.number, conduct)
      if (conduct === 'punctual') continue
      const details = { peer, round: round.number, waitedMs: Math.round(waitedMs), sitsOutRounds }
      this.#logger.info(details, conduct === 'missed' ? 'a round went on without a client' : 'a client held a round up')
    }
  }
}

function isSameSpan (a: { first: number, end: number }, b: { first: number, end: number }): boolean {
  return a.first === b.first && a.end === b.end
}
