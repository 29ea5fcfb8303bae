import { learningRateAt } from '../../../model/training/learning-rate.ts'
import { clippingCoefficient } from '../../../model/training/optimizer.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import type { SecureRequest } from '../../../protocols/train/train_pb.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import type { TrainingStream } from '../../middle/training-stream.ts'
import { replyMessage, requestOf, type SecurePlace } from '../../secure-messages.ts'
import type { SecureRequest as SecureStepRequest } from '../../training/aggregation/secure/messages.ts'
import { vectorOf } from '../../training/aggregation/secure/vector.ts'
import type { ClientStrategy, RoundEnd } from '../../training/aggregation/strategy.ts'
import type { AdapterState } from './adapter-state.ts'
import type { ClientRound } from './client-round.ts'
import type { ProgressMeta } from './progress.ts'
import type { SecureContributions } from './secure-contributions.ts'
import type { WithheldGate } from './withheld-gate.ts'

export interface HandInComponents {
  readonly state: AdapterState
  readonly strategy: ClientStrategy
  readonly charter: Charter
  /** Learns with the client's blocks, where words are withheld. */
  readonly gate?: Pick<WithheldGate, 'prepare' | 'settle'> | undefined
  /** This client's part in secure sums; undefined where it hands in what it contributes as it is. */
  readonly secure?: SecureContributions | undefined
}

/** What a client does with its own blocks at the end of a round, as its strategy has it: it tells, steps and hands in. */
export class HandIn {
  readonly #c: HandInComponents

  constructor (components: HandInComponents) {
    this.#c = components
  }

  /** Hands in what the passes of a round came to. A client that tells the norm of its gradients waits for the coefficient first. */
  async begin (stream: TrainingStream, work: ClientRound, meta: ProgressMeta): Promise<void> {
    const { state, strategy, charter } = this.#c
    const { round } = work
    work.awaits = 'step'
    await this.#prepareGate(work)
    if (!strategy.stepsItself) {
      await this.#contribute(stream, work, meta)
      // The log alone has this norm: the device computes it while the server takes the step, and nothing fails by it.
      work.gradientNorm = await state.measureNorm(work.gradients) / work.figures.tokens
      return
    }
    const norm = await state.norm(work.gradients)
    work.gradientNorm = norm / work.figures.tokens
    if (!strategy.tellsGradientNorm)
      return await this.#ownStep(stream, work, clippingCoefficient(work.gradientNorm, charter.training.maxGradientNorm), meta)
    work.awaits = 'coefficient'
    await stream.send({ case: 'gradientNorm', value: { round, norm } })
  }

  /** Goes on with the coefficient that the server tells. Throws BadMessageError. */
  async coefficient (stream: TrainingStream, work: ClientRound, coefficient: number, meta: ProgressMeta): Promise<void> {
    if (work.awaits !== 'coefficient') return
    checkFactor('the coefficient of clipping', coefficient)
    work.awaits = 'step'
    await this.#ownStep(stream, work, coefficient, meta)
  }

  /** Answers a step of a secure sum. Throws what ends this client's part in it. */
  async secure (stream: TrainingStream, message: SecureRequest): Promise<void> {
    if (this.#c.secure === undefined) throw new BadMessageError('the server asks for a secure sum, and the federation has none')
    await this.#answer(stream, message, requestOf(message))
  }

  /** Forgets what was to be handed in. */
  forget (): void {
    this.#c.secure?.forget()
  }

  /** Brings the client's blocks to the end of a round, from what the server sent with its step. Throws BadMessageError. */
  async finish (round: number, end: Omit<RoundEnd, 'learningRate'>): Promise<void> {
    const { state, strategy } = this.#c
    if (!strategy.stepsItself) checkFactor('the scale of a step', end.scale)
    await this.settle(round, end.counted)
    await strategy.finish(state, { ...end, learningRate: this.#learningRate(round) })
  }

  /** Keeps what this client alone has learnt in a round where its work counted, and drops it otherwise. */
  async settle (round: number, counted: boolean): Promise<void> {
    await this.#c.gate?.settle(round, counted)
  }

  /** Takes the step of the gate of withheld tokens, which is the client's own with every strategy. */
  async #prepareGate ({ round, gateGradients, figures: { tokens } }: ClientRound): Promise<void> {
    if (gateGradients.size === 0) return
    await this.#c.gate?.prepare(round, gateGradients, { learningRate: this.#learningRate(round), scale: 1 / tokens })
  }

  /** Takes the step of this client's own blocks and hands in what they add. */
  async #ownStep (stream: TrainingStream, work: ClientRound, coefficient: number, meta: ProgressMeta): Promise<void> {
    const { round, gradients, figures: { tokens } } = work
    await this.#c.state.prepare(gradients, { learningRate: this.#learningRate(round), scale: coefficient / tokens }, meta)
    await this.#contribute(stream, work, meta)
  }

  async #contribute (
    stream: TrainingStream,
    { round, gradients }: ClientRound,
    { unaveragedTokens = 0, pendingTokens = 0 }: ProgressMeta
  ): Promise<void> {
    const { secure } = this.#c
    const contribution = await this.#c.strategy.contribution(round, this.#c.state, gradients, unaveragedTokens + pendingTokens)
    if (secure !== undefined && contribution.size > 0) {
      const early = secure.offer(round, vectorOf(contribution))
      return early === undefined ? undefined : await this.#answer(stream, early.place, early.request)
    }
    await stream.send({ case: 'contribution', value: { round, names: [...contribution.keys()] } }, [...contribution.values()])
  }

  async #answer (stream: TrainingStream, place: SecurePlace, request: SecureStepRequest): Promise<void> {
    const reply = await this.#c.secure?.answer(place, request)
    if (reply !== undefined) await stream.send(...replyMessage(place, reply))
  }

  #learningRate (round: number): number {
    const { training: { schedule, optimizer } } = this.#c.charter
    return learningRateAt(schedule, optimizer.learningRate, round)
  }
}

/** Checks what a server has gradients multiplied by: above 0, and 1 at most, as it divides by tokens and clips. Throws BadMessageError. */
function checkFactor (what: string, factor: number): void {
  // The comparisons are false for NaN.
  if (!(factor > 0 && factor <= 1)) throw new BadMessageError(`${what} is ${factor}: expected a number above 0, 1 at most`)
}
