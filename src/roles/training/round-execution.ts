import type { DeviceTensor } from '../../model/runtime/device.ts'
import type { GradientSum } from '../../model/training/gradient-sum.ts'
import type { Charter } from '../../protocols/charter/schema.ts'
import { fromServer } from '../../protocols/train/messages.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import type { Logger } from '../context.ts'
import type { LocalStage, LocalForwardPass } from '../middle/local-stage.ts'
import type { BatchItem } from '../middle/stage.ts'
import { tellsGradientNorm } from './aggregation/adapter-shapes.ts'
import type { FederatedAdapters } from './aggregation/federated-adapters.ts'
import { dropoutSeed } from './dropout-seed.ts'
import type { Members } from './members.ts'
import type { BackwardReply, ContributionReply, Round } from './round.ts'

export interface RoundExecutionComponents {
  readonly charter: Charter
  readonly middle: LocalStage
  readonly adapters: FederatedAdapters
  readonly members: Members
  readonly logger: Logger
}

/** What a participant's passes came to. */
export interface Update {
  readonly peer: string
  readonly span: Span
  /** Target tokens that its loss is the sum over. */
  readonly tokens: number
  /** The L2 norm of the gradients of its own blocks, sums over these tokens, where the charter has it tell; 0 otherwise. */
  readonly norm: number
}

/** A participant's work that made it into the round. */
export interface AcceptedUpdate extends Update {
  readonly contribution: ContributionReply
}

type Answers = ReadonlyMap<string, BackwardReply>

/**
 * The passes of a round, from the first to the last, or to where they have to begin anew. In each: hidden rows up, through the middle,
 * down; gradients up, back through the middle, down. After the last: what all clip by, where they clip together, and what the clients'
 * own blocks add. A pass is freed before the next one comes; what stays is the sum of the middle's gradients.
 */
export class RoundExecution implements Disposable {
  readonly #c: RoundExecutionComponents
  readonly #round: Round
  readonly #sum: GradientSum
  readonly #tokens = new Map<string, number>()
  readonly #clipsTogether: boolean
  #coefficient: number | undefined

  constructor (components: RoundExecutionComponents, round: Round) {
    this.#c = components
    this.#round = round
    this.#clipsTogether = tellsGradientNorm(components.charter)
    this.#sum = components.middle.gradientSum()
  }

  /** The middle's gradients: sums over the passes so far. */
  get gradients (): ReadonlyMap<string, DeviceTensor> { return this.#sum.gradients }

  /** What everybody has been told to multiply its gradients by, if anything. */
  get coefficient (): number | undefined { return this.#coefficient }

  /** Resolves with those whose work the gradients are the sum of; with undefined when the passes have to begin anew. */
  async run (): Promise<readonly AcceptedUpdate[] | undefined> {
    const round = this.#round
    for (;;) {
      const isLast = round.pass === this.#c.charter.training.gradientAccumulationSteps - 1
      const peers = await this.#pass(isLast)
      if (peers === undefined) return undefined
      if (peers.size === 0) return []
      if (!isLast) continue
      const norms = await round.norm?.done
      const works = [...peers].map((peer) => ({
        peer,
        span: round.spanOf(peer),
        tokens: this.#tokens.get(peer) ?? 0,
        norm: norms?.get(peer) ?? 0
      }))
      if (this.#clipsTogether && !await this.#clip(works)) return undefined
      const contributions = await round.contribution?.done
      return works.flatMap((work) => {
        const contribution = contributions?.get(work.peer)
        return contribution === undefined ? [] : [{ ...work, contribution }]
      })
    }
  }

  [Symbol.dispose] (): void {
    this.#sum[Symbol.dispose]()
  }

  /** One pass. Resolves with those whose work is in the sum; with undefined when it lacks somebody whose work is in an earlier pass. */
  async #pass (isLast: boolean): Promise<ReadonlySet<string> | undefined> {
    const { middle } = this.#c
    const round = this.#round
    const seed = dropoutSeed(round.number, round.pass)
    const forwards = await round.forward.done
    if (!round.retain(forwards)) return undefined
    if (forwards.size === 0) return nobody
    const passengers = [...forwards].map(([peer, rows]) => ({ id: peer, ...round.spanOf(peer), ...rows }))
    let passage = await middle.forward(passengers, { dropoutSeed: seed })
    try {
      const answers = await this.#answers(passage)
      if (!round.retain(answers)) return undefined
      if (answers.size === 0) return nobody
      const gradients = await passage.backward(answers)
      const sound = await this.#sound(passage, passengers, answers, seed)
      if (!round.retain(sound)) return undefined
      this.#reply(gradients, sound)
      let finished = sound
      if (!isLast) round.nextPass(sound)
      else finished = new Set((await (this.#clipsTogether ? round.expectNorm(sound) : round.expectContribution(sound)).done).keys())
      if (!round.retain(finished)) return undefined
      if (finished.size === 0) return nobody
      if (finished.size < answers.size) {
        // They take their part of the gradient along: it becomes what it would have been without them.
        passage.free()
        passage = await middle.forward(passengers.filter(({ id }) => finished.has(id)), { dropoutSeed: seed })
        await passage.backward(answers)
      }
      await this.#sum.add(passage.takeGradients())
      for (const peer of finished) this.#tokens.set(peer, (this.#tokens.get(peer) ?? 0) + (answers.get(peer)?.tokens ?? 0))
      return finished
    } finally {
      passage.free()
    }
  }

  /** What everybody multiplies its gradients by, down. Resolves when contributions have come up: with whether all of them have. */
  async #clip (works: readonly Update[]): Promise<boolean> {
    const round = this.#round
    const peers = works.map(({ peer }) => peer)
    const coefficient = this.#coefficient = await this.#c.adapters.clippingCoefficient(this.gradients, works)
    round.clipBy(coefficient, peers)
    const contribution = round.expectContribution(peers)
    for (const peer of peers) this.#c.members.say(peer, fromServer({ case: 'coefficient', value: { round: round.number, coefficient } }))
    return round.retain(await contribution.done)
  }

  /** Hidden rows down. Resolves with the gradients that come up. */
  async #answers (passage: LocalForwardPass): Promise<Answers> {
    const round = this.#round
    const backward = round.expectBackward(passage.hidden.keys())
    for (const [peer, tensors] of passage.hidden) {
      round.hidden.set(peer, tensors)
      this.#c.members.say(peer, fromServer({ case: 'hidden', value: { round: round.number, pass: round.pass } }), tensors)
    }
    return await backward.done
  }

  /** Gradients down. */
  #reply (gradients: ReadonlyMap<string, readonly Tensor[]>, peers: ReadonlySet<string>): void {
    const round = this.#round
    for (const peer of peers) {
      const tensors = gradients.get(peer) ?? []
      round.gradients.set(peer, tensors)
      this.#c.members.say(peer, fromServer({ case: 'gradient', value: { round: round.number, pass: round.pass } }), tensors)
    }
  }

  /**
   * Without those whose gradients overflow, or could in the sum over all passes and clients, with which every adapter would be lost. Each
   * pass has its share of what that sum may be, and each client its share of the pass: where it is too much, somebody is found at fault.
   */
  async #sound (passage: LocalForwardPass, passengers: readonly BatchItem[], answers: Answers, seed: string): Promise<ReadonlySet<string>> {
    const { middle, adapters, logger, charter: { training: { gradientAccumulationSteps: passes } } } = this.#c
    if (await adapters.isSummable(passage.adapterGradients, passes)) return new Set(answers.keys())
    const sound = new Set<string>()
    for (const peer of answers.keys()) {
      const alone = await middle.forward(passengers.filter(({ id }) => id === peer), { dropoutSeed: seed })
      try {
        await alone.backward(answers)
        if (await adapters.isSummable(alone.adapterGradients, passes * answers.size)) sound.add(peer)
        else logger.warn({ peer, round: this.#round.number }, 'a client\'s gradients are not finite, or far too large')
      } finally {
        alone.free()
      }
    }
    return sound
  }
}

const nobody: ReadonlySet<string> = new Set()
