import type { Logger } from '../../../logger.ts'
import type { Members } from '../../members.ts'
import type { Round } from '../../round.ts'
import { Aggregator, type Replies } from './aggregator.ts'
import { MAX_ATTEMPTS, MAX_CONTRIBUTORS } from './constants.ts'
import type { SecureReply, SecureRequest, SecureStep, Verify } from './messages.ts'

export interface SecureExchangeComponents {
  /** The federation's id, in hex. */
  readonly federation: string
  readonly minContributors: number
  readonly verify: Verify
  readonly members: Pick<Members, 'participant'>
  readonly logger: Logger
}

/** A sum, and whose contributions are in it. */
export interface SecureSum {
  readonly peers: ReadonlySet<string>
  readonly values: Float32Array
}

/** Contributors that have a sum of their own, and the server's part in it. */
interface Cohort {
  readonly aggregator: Aggregator
  peers: readonly string[]
}

type ReplyTo<Step extends SecureStep> = Extract<SecureReply, { readonly step: Step }>

/** Leads the participants of a round through a secure sum of what they contribute. */
export class SecureExchange {
  readonly #c: SecureExchangeComponents

  constructor (components: SecureExchangeComponents) {
    this.#c = components
  }

  /**
   * Resolves with the sum of vectors of this many values. Where too few contributors are left before any of them revealed a share, all
   * begin anew with fresh keys, a few times. Resolves with undefined where there is no sum, and with 'restart' where the passes have to
   * restart without those who were lost.
   */
  async run (round: Round, peers: Iterable<string>, values: number): Promise<SecureSum | 'restart' | undefined> {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const present = [...peers].filter((peer) => round.has(peer))
      if (present.length < this.#c.minContributors) return undefined
      const outcome = await this.#attempt(round, present, values)
      if (outcome !== 'failed') return outcome
      this.#c.logger.warn({ round: round.number, attempt }, 'too many contributors were lost for a secure sum')
    }
    return undefined
  }

  async #attempt (round: Round, peers: readonly string[], values: number): Promise<SecureSum | 'restart' | 'failed' | undefined> {
    const { federation, minContributors, verify } = this.#c
    const attempt = { federation, round: round.number, attempt: round.nextAttempt(), values }
    const cohorts = cohortsOf(peers).map((members): Cohort => ({
      aggregator: new Aggregator({ attempt, verify, minContributors }), peers: members
    }))
    const requests = new Map<string, SecureRequest>(peers.map((peer) => [peer, { step: 'advertise', values }]))
    const advertised = await this.#ask(round, attempt.attempt, 'advertise', requests)
    requests.clear()
    for (const cohort of cohorts) {
      const roster = await cohort.aggregator.roster(of(cohort, advertised, ({ advertisement }) => advertisement))
      if (roster === undefined) return 'failed'
      cohort.peers = roster.map(({ peer }) => peer)
      for (const peer of cohort.peers) requests.set(peer, { step: 'share', roster })
    }
    const shared = await this.#ask(round, attempt.attempt, 'share', requests)
    requests.clear()
    for (const cohort of cohorts) {
      const boxes = cohort.aggregator.shares(of(cohort, shared, (reply) => reply.boxes))
      if (boxes === undefined) return 'failed'
      cohort.peers = [...boxes.keys()]
      for (const [peer, own] of boxes) requests.set(peer, { step: 'mask', boxes: own })
    }
    const masked = await this.#ask(round, attempt.attempt, 'mask', requests)
    requests.clear()
    for (const cohort of cohorts) {
      const survivors = cohort.aggregator.survivors(of(cohort, masked, ({ words }) => words))
      if (survivors === undefined) return 'failed'
      cohort.peers = survivors
      for (const peer of survivors) requests.set(peer, { step: 'confirm', survivors })
    }
    // Whose work is in earlier passes cannot be taken out of them: the passes restart without it, before anybody reveals a share.
    const survivors = new Set(requests.keys())
    if (!round.retain(survivors)) return 'restart'
    const confirmed = await this.#ask(round, attempt.attempt, 'confirm', requests)
    requests.clear()
    for (const cohort of cohorts) {
      const confirmations = await cohort.aggregator.confirmations(of(cohort, confirmed, ({ signature }) => signature))
      if (confirmations === undefined) return 'failed'
      for (const { peer } of confirmations) requests.set(peer, { step: 'reveal', confirmations })
    }
    const revealed = await this.#ask(round, attempt.attempt, 'reveal', requests)
    const sum = new Float64Array(values)
    for (const cohort of cohorts) {
      const part = await cohort.aggregator.sum(of(cohort, revealed, ({ shares }) => shares))
      if (part === undefined) {
        // Those who revealed shares add the same to no other sum.
        this.#c.logger.warn({ round: round.number }, 'a secure sum could not be unmasked: the round is done again with other batches')
        return undefined
      }
      for (let i = 0; i < values; i++) sum[i] = (sum[i] as number) + (part[i] as number)
    }
    return { peers: survivors, values: Float32Array.from(sum) }
  }

  /** Asks for a step. Resolves with the replies that came. */
  async #ask<Step extends SecureStep> (
    round: Round,
    attempt: number,
    step: Step,
    requests: ReadonlyMap<string, SecureRequest>
  ): Promise<Replies<ReplyTo<Step>>> {
    const replies = round.expectSecure(attempt, step, requests.keys())
    for (const [peer, request] of requests) this.#c.members.participant(peer)?.secure({ round: round.number, attempt }, request)
    // The round takes in replies to this step alone.
    return await replies.done as ReadonlyMap<string, unknown> as Replies<ReplyTo<Step>>
  }
}

/** Divides contributors, in the order of their ids, into as few groups as possible that are as large as one another. */
export function cohortsOf (peers: readonly string[]): string[][] {
  const sorted = [...peers].sort()
  const count = Math.ceil(sorted.length / MAX_CONTRIBUTORS)
  return Array.from({ length: count }, (_, index) =>
    sorted.slice(Math.floor(index * sorted.length / count), Math.floor((index + 1) * sorted.length / count)))
}

/** The part of the replies that is a cohort's. */
function of<Reply, Part> ({ peers }: Cohort, replies: Replies<Reply>, part: (reply: Reply) => Part): Replies<Part> {
  return new Map(peers.flatMap((peer) => {
    const reply = replies.get(peer)
    return reply === undefined ? [] : [[peer, part(reply)] as const]
  }))
}
