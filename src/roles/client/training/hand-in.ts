import { learningRateAt } from '../../../model/training/learning-rate.ts'
import { clippingCoefficient } from '../../../model/training/optimizer.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import type { TrainingStream } from '../../middle/training-stream.ts'
import type { ClientStrategy, RoundEnd } from '../../training/aggregation/strategy.ts'
import type { AdapterState } from './adapter-state.ts'
import type { ClientRound } from './client-round.ts'
import type { ProgressMeta } from './progress.ts'

export interface HandInComponents {
  readonly state: AdapterState
  readonly strategy: ClientStrategy
  readonly charter: Charter
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
    const norm = await state.norm(work.gradients)
    work.gradientNorm = norm / work.figures.tokens
    if (!strategy.stepsItself) return await this.#contribute(stream, work)
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

  /** Brings the client's blocks to the end of a round, from what the server sent with its step. Throws BadMessageError. */
  async finish (round: number, end: Omit<RoundEnd, 'learningRate'>): Promise<void> {
    const { state, strategy } = this.#c
    if (!strategy.stepsItself) checkFactor('the scale of a step', end.scale)
    await strategy.finish(state, { ...end, learningRate: this.#learningRate(round) })
  }

  /** Takes the step of this client's own blocks and hands in what they add. */
  async #ownStep (stream: TrainingStream, work: ClientRound, coefficient: number, meta: ProgressMeta): Promise<void> {
    const { round, gradients, figures: { tokens } } = work
    await this.#c.state.prepare(gradients, { learningRate: this.#learningRate(round), scale: coefficient / tokens }, meta)
    await this.#contribute(stream, work)
  }

  async #contribute (stream: TrainingStream, { round, gradients }: ClientRound): Promise<void> {
    const contribution = await this.#c.strategy.contribution(round, this.#c.state, gradients)
    await stream.send({ case: 'contribution', value: { round, names: [...contribution.keys()] } }, [...contribution.values()])
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
