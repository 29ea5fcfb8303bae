import type { DeviceTensor } from '../../../model/runtime/device.ts'
import type { Batches, Cursor } from '../../../model/text/batches.ts'
import type { GradientSum } from '../../../model/training/gradient-sum.ts'
import type { Tensor } from '../../../tensor.ts'
import { dropoutSeed } from '../../training/participant.ts'
import type { ClientEnds, TrainingPass } from './client-ends.ts'

/** What passes have come to: sums over their tokens, and how much of what they released was clipped. */
interface Figures {
  readonly lossSum: number
  /** Tokens that the loss counts. */
  readonly tokens: number
  readonly clippedFraction: number
}

/**
 * A client's part in a round: one batch after another through its ends. A pass is freed before the next one comes; what stays is the
 * sum of the gradients, and figures.
 */
export class RoundWork implements Disposable {
  readonly round: number
  readonly startedAtMs = Date.now()
  /** What it waits for. A client that was cut off may be told the same twice. */
  awaits: 'hidden' | 'gradient' | 'coefficient' | 'step' = 'hidden'
  readonly #ends: ClientEnds
  readonly #batches: Batches
  readonly #sum: GradientSum
  readonly #done: Figures[] = []
  /** Of the next batch. */
  #cursor: Cursor
  #current: TrainingPass | undefined
  /** Tokens that went through the model in all passes. */
  #inputTokens = 0

  constructor (round: number, ends: ClientEnds, batches: Batches, cursor: Cursor) {
    this.round = round
    this.#ends = ends
    this.#batches = batches
    this.#sum = ends.gradientSum()
    this.#cursor = cursor
  }

  /** The pass in progress, or the next one, from 0. */
  get pass (): number { return this.#done.length }

  /** Target tokens of the pass in progress. */
  get passTokens (): number { return this.#inProgress().tokens }

  /** Gradients of the client's adapters, by name: sums over the passes that are done. */
  get gradients (): ReadonlyMap<string, DeviceTensor> { return this.#sum.gradients }

  get figures (): Figures & { readonly inputTokens: number } {
    const all = this.#current === undefined ? this.#done : [...this.#done, this.#current]
    const total = (of: (figures: Figures) => number): number => all.reduce((sum, figures) => sum + of(figures), 0)
    return {
      lossSum: total(({ lossSum }) => lossSum),
      tokens: total(({ tokens }) => tokens),
      inputTokens: this.#inputTokens,
      clippedFraction: total(({ clippedFraction }) => clippedFraction) / all.length
    }
  }

  /** Begins the next pass. */
  async forward (): Promise<TrainingPass> {
    const { batch, next } = this.#batches.at(this.#cursor)
    this.#current = await this.#ends.forward(batch, dropoutSeed(this.round, this.pass))
    this.#inputTokens += batch.lengths.reduce((sum, length) => sum + length, 0)
    this.#cursor = next
    this.awaits = 'hidden'
    return this.#current
  }

  /** Takes rows that came back from the middle to the loss. Returns its gradient rows as they may leave. */
  async learn (tensors: readonly Tensor[]): Promise<readonly Tensor[]> {
    this.awaits = 'gradient'
    return await this.#inProgress().learn(tensors)
  }

  /** Ends the pass with gradient rows that came back from the middle. */
  async finish (tensors: readonly Tensor[]): Promise<void> {
    this.awaits = 'step'
    const pass = this.#inProgress()
    await pass.finish(tensors)
    await this.#sum.add(pass.takeGradients())
    const { lossSum, tokens, clippedFraction } = pass
    this.#done.push({ lossSum, tokens, clippedFraction })
    this.#current = undefined
    pass.free()
  }

  [Symbol.dispose] (): void {
    this.#current?.free()
    this.#current = undefined
    this.#sum[Symbol.dispose]()
  }

  #inProgress (): TrainingPass {
    if (this.#current === undefined) throw new Error('no pass is in progress')
    return this.#current
  }
}
