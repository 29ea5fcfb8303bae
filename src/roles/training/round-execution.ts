import type { DeviceTensor } from '../../model/runtime/device.ts'
import type { Tensor } from '../../tensor.ts'
import type { Logger } from '../logger.ts'
import type { SecureExchange, SecureSum } from './aggregation/secure/exchange.ts'
import { contributionOf, valuesOf } from './aggregation/secure/vector.ts'
import type { AggregationStrategy } from './aggregation/strategy.ts'
import type { Members } from './members.ts'
import { dropoutSeed, type StageGradients, type StageInput, type StageOutput, type TrainingStage } from './participant.ts'
import type { BackwardReply, Round } from './round.ts'
import type { AcceptedUpdate, Contribution, Update } from './update.ts'

export interface RoundExecutionComponents {
  /** Sums contributions so that nobody learns one; absent where clients hand theirs in. */
  readonly secure?: SecureExchange | undefined
  readonly stage: TrainingStage
  readonly strategy: AggregationStrategy
  readonly members: Members
  readonly logger: Logger
}

type BackwardReplies = ReadonlyMap<string, BackwardReply>

const nobody: ReadonlySet<string> = new Set()

/**
 * One try at a round: its passes from the first to the last, or until they have to restart. In each pass hidden states come up, go through
 * the middle and are answered; then gradients come up, go back through the middle and are answered. After the last pass come the norms of
 * gradients, where all clip by one norm, and what the clients' own blocks add. A pass is freed before the next one begins; only the sum of
 * the middle's gradients is kept. Disposing of the execution frees the sum.
 */
export class RoundExecution implements Disposable {
  readonly #c: RoundExecutionComponents
  readonly #round: Round
  readonly #passes: number
  readonly #sum: StageGradients
  readonly #tokens = new Map<string, number>()
  #coefficient: number | undefined
  #secureSum: SecureSum | undefined

  constructor (components: RoundExecutionComponents, round: Round, passes: number) {
    this.#c = components
    this.#round = round
    this.#passes = passes
    this.#sum = components.stage.gradientSum()
  }

  /** The middle's gradients: sums over the passes so far. */
  get gradients (): ReadonlyMap<string, DeviceTensor> { return this.#sum.gradients }

  /** What everybody has been told to multiply its gradients by, if anything. */
  get coefficient (): number | undefined { return this.#coefficient }

  /** Resolves with the work that the gradients are the sum of, or with undefined when the passes have to restart. */
  async run (): Promise<readonly AcceptedUpdate[] | undefined> {
    const round = this.#round
    for (;;) {
      const isLast = round.pass === this.#passes - 1
      const peers = await this.#runPass(isLast)
      if (peers === undefined) return undefined
      if (peers.size === 0) return []
      if (!isLast) continue
      const norms = await round.norm?.done
      const updates = [...peers].map((peer) => ({
        peer,
        span: round.spanOf(peer),
        tokens: this.#tokens.get(peer) ?? 0,
        norm: norms?.get(peer) ?? 0
      }))
      if (this.#c.strategy.collectsNorms && !await this.#clip(updates)) return undefined
      const contributions = this.#summed(updates) ?? await round.contribution?.done
      return updates.flatMap((update) => {
        const contribution = contributions?.get(update.peer)
        return contribution === undefined ? [] : [{ ...update, contribution }]
      })
    }
  }

  [Symbol.dispose] (): void {
    this.#sum[Symbol.dispose]()
  }

  /**
   * Runs one pass. Resolves with the peers whose work is in the sum, or with undefined when a peer is missing whose work is in an earlier
   * pass.
   */
  async #runPass (isLast: boolean): Promise<ReadonlySet<string> | undefined> {
    const { stage } = this.#c
    const round = this.#round
    const seed = dropoutSeed(round.number, round.pass)
    const forwards = await round.forward.done
    if (!round.retain(forwards)) return undefined
    if (forwards.size === 0) return nobody
    const inputs = [...forwards].map(([peer, reply]) => ({ id: peer, ...round.spanOf(peer), ...reply }))
    let output = await stage.forward(inputs, { dropoutSeed: seed })
    try {
      const replies = await this.#tellHidden(output)
      if (!round.retain(replies)) return undefined
      if (replies.size === 0) return nobody
      const gradients = await output.backward(replies)
      const sound = await this.#sound(output, inputs, replies, seed)
      if (!round.retain(sound)) return undefined
      this.#tellGradients(gradients, sound)
      let finished: ReadonlySet<string> | 'restart' = sound
      if (!isLast) round.nextPass(sound)
      else finished = await this.#finish(sound)
      if (finished === 'restart' || !round.retain(finished)) return undefined
      if (finished.size === 0) return nobody
      if (finished.size < replies.size) {
        // The pass is computed again, since the gradients of those who are gone are in the sums.
        output.free()
        const present = finished
        output = await stage.forward(inputs.filter(({ id }) => present.has(id)), { dropoutSeed: seed })
        await output.backward(replies)
      }
      await this.#sum.add(output.takeGradients())
      for (const peer of finished) this.#tokens.set(peer, (this.#tokens.get(peer) ?? 0) + (replies.get(peer)?.tokens ?? 0))
      return finished
    } finally {
      output.free()
    }
  }

  /** Waits for what ends the participants' part in a round. Resolves with those whose work is in it, or 'restart'. */
  async #finish (peers: ReadonlySet<string>): Promise<ReadonlySet<string> | 'restart'> {
    const { secure, strategy } = this.#c
    const round = this.#round
    const values = valuesOf(this.#shapes(peers))
    if (secure !== undefined && values > 0) {
      const sum = await secure.run(round, peers, values)
      if (sum === 'restart') return sum
      this.#secureSum = sum
      return sum?.peers ?? nobody
    }
    return new Set((await (strategy.collectsNorms ? round.expectNorm(peers) : round.expectContribution(peers)).done).keys())
  }

  /** What each of these participants contributes; with a secure sum all contribute the same. */
  #shapes (peers: Iterable<string>) {
    const [first] = peers
    return first === undefined ? [] : this.#c.strategy.expectedFrom(this.#round.spanOf(first), this.#round.number)
  }

  /** The contributions where only their sum is known: it stands with one participant, and the others have none. */
  #summed (updates: readonly Update[]): Map<string, Contribution> | undefined {
    if (this.#secureSum === undefined) return undefined
    const sum = contributionOf(this.#shapes(this.#secureSum.peers), this.#secureSum.values)
    return new Map(updates.map(({ peer }, index) => [peer, index === 0 ? sum : new Map()]))
  }

  /**
   * Tells everybody what to multiply its gradients by, and waits for contributions. Resolves with whether everybody contributed who was
   * told.
   */
  async #clip (updates: readonly Update[]): Promise<boolean> {
    const round = this.#round
    const peers = updates.map(({ peer }) => peer)
    const coefficient = this.#coefficient = await this.#c.strategy.clippingCoefficient(this.gradients, updates)
    round.clipBy(coefficient, peers)
    const contribution = round.expectContribution(peers)
    for (const peer of peers) this.#c.members.participant(peer)?.coefficient(round.number, coefficient)
    return round.retain(await contribution.done)
  }

  /** Answers with hidden states after the middle. Resolves with the gradients that participants reply with. */
  async #tellHidden ({ hidden }: StageOutput): Promise<BackwardReplies> {
    const round = this.#round
    const backward = round.expectBackward(hidden.keys())
    for (const [peer, tensors] of hidden) {
      round.hidden.set(peer, tensors)
      this.#c.members.participant(peer)?.hidden({ round: round.number, pass: round.pass }, tensors)
    }
    return await backward.done
  }

  #tellGradients (gradients: ReadonlyMap<string, readonly Tensor[]>, peers: ReadonlySet<string>): void {
    const round = this.#round
    for (const peer of peers) {
      const tensors = gradients.get(peer) ?? []
      round.gradients.set(peer, tensors)
      this.#c.members.participant(peer)?.gradient({ round: round.number, pass: round.pass }, tensors)
    }
  }

  /**
   * Finds the participants whose gradients have a finite sum. One value that is not finite would spoil every adapter for good. Each pass
   * has an equal share of what the sum over a round may be, and each participant an equal share of the pass: where a pass exceeds its
   * share, at least one participant exceeds its own.
   */
  async #sound (
    output: StageOutput,
    inputs: readonly StageInput[],
    replies: BackwardReplies,
    seed: string
  ): Promise<ReadonlySet<string>> {
    const { stage, strategy, logger } = this.#c
    const candidates = [...replies.keys()].filter((peer) => output.unsound?.has(peer) !== true)
    if (await strategy.isSummable(output.adapterGradients, this.#passes)) return new Set(candidates)
    const sound = new Set<string>()
    for (const peer of candidates) {
      const alone = await stage.forward(inputs.filter(({ id }) => id === peer), { dropoutSeed: seed })
      try {
        await alone.backward(replies)
        if (await strategy.isSummable(alone.adapterGradients, this.#passes * replies.size)) sound.add(peer)
        else logger.warn({ peer, round: this.#round.number }, 'a client\'s gradients are not finite, or far too large')
      } finally {
        alone.free()
      }
    }
    return sound
  }
}
