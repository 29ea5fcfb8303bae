import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import { learningRateAt } from '../../../model/training/learning-rate.ts'
import { clippingCoefficient, type Optimizer } from '../../../model/training/optimizer.ts'
import type { Parameters } from '../../../model/training/parameters.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { CommittedState } from '../coordinator-state.ts'
import type { NamedTensors } from '../participant.ts'
import type { TrainingPlan } from '../plan.ts'
import type { AcceptedUpdate, Update } from '../update.ts'
import { blockOf, type AdapterShape, type AggregationStrategy, type ClientSelection, type StepTaken } from './strategy.ts'

export interface FederatedAdaptersComponents {
  readonly plan: TrainingPlan
  readonly selection: ClientSelection
  readonly device: Device
  readonly optimizer: Optimizer
  /** Adapters of the blocks that the server steps, and of those whose state it keeps for its clients. */
  readonly parameters: Parameters
  /** Names and shapes of the adapters of every block of the model. */
  readonly shapes: readonly AdapterShape[]
  readonly state: CommittedState
}

/** The greatest norm of a round's gradients: far above what any text brings, and the squares of such values still have a float32 sum. */
const MAX_SUMMED_NORM = 1e18

/** The adapters of a federation as its server holds them: what all strategies have in common. */
export abstract class FederatedAdapters implements AggregationStrategy {
  abstract readonly collectsNorms: boolean
  protected readonly c: FederatedAdaptersComponents
  /** The state before the first step of all, which nothing durable has. */
  #initial: ReadonlyMap<string, Tensor> | undefined

  constructor (components: FederatedAdaptersComponents) {
    this.c = components
  }

  abstract expectedFrom (middle: Span, round: number): readonly AdapterShape[]
  abstract stateFor (middle: Span, clientRound: number): NamedTensors

  /** Steps the parameters on the device. `step` has seen to it that `revert` can undo it. */
  protected abstract takeStep (
    round: number,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[],
    coefficient: number | undefined
  ): Promise<StepTaken>

  get selection (): ClientSelection { return this.c.selection }

  async committed (except?: Span): Promise<NamedTensors & { round: number }> {
    const { state, parameters } = this.c
    const names = parameters.names.filter((name) => except === undefined || !isWithin(except, blockOf(name)))
    // A first step that is being taken may have changed the parameters, and is not durable yet.
    const values = state.round === 0 ? this.#initial ?? await parameters.values(names) : state.tensors
    return { round: state.round, ...pick(values, names) }
  }

  async isSummable (gradients: ReadonlyMap<string, DeviceTensor>, parts: number): Promise<boolean> {
    // By the triangle inequality. The comparison is false for NaN.
    return await this.c.optimizer.norm(gradients.values()) * parts <= MAX_SUMMED_NORM
  }

  /**
   * The norm that is clipped is that of one vector: the middle's gradients, each the mean over the tokens that passed its block, and every
   * client's own gradients, means over its tokens, where clients tell the norm of theirs.
   */
  async clippingCoefficient (middleGradients: ReadonlyMap<string, DeviceTensor>, updates: readonly Update[]): Promise<number> {
    const { plan, optimizer } = this.c
    const middle = await Promise.all(
      [...middleGradients].map(async ([name, gradient]) => {
        const tokens = tokensThrough(updates, blockOf(name))
        return tokens === 0 ? 0 : await optimizer.norm([gradient]) / tokens
      })
    )
    const own = updates.map(({ norm, tokens }) => norm / tokens)
    return clippingCoefficient(Math.hypot(...middle, ...own), plan.training.maxGradientNorm)
  }

  async step (
    round: number,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[],
    coefficient?: number
  ): Promise<StepTaken> {
    const { state, parameters } = this.c
    this.#initial = state.round === 0 ? this.#initial ?? await parameters.state() : undefined
    return await this.takeStep(round, middleGradients, accepted, coefficient)
  }

  async revert (): Promise<void> {
    const { parameters, state } = this.c
    await parameters.restore(state.round === 0 ? this.#initial ?? new Map() : state.tensors)
  }

  /**
   * Steps the server's own blocks, each on the mean over the tokens that passed it, where clients have stepped theirs. A block that only
   * clients passed who have no part in the step keeps its state. Returns the coefficient.
   */
  protected async stepMiddle (
    round: number,
    gradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[],
    told: number | undefined
  ): Promise<number> {
    const coefficient = told ?? await this.clippingCoefficient(gradients, accepted)
    for (const [tokens, alike] of Map.groupBy(gradients, ([name]) => tokensThrough(accepted, blockOf(name)))) {
      if (tokens === 0) continue
      const settings = { learningRate: this.learningRate(round), scale: coefficient / tokens }
      await this.c.parameters.step(this.c.optimizer, new Map(alike), settings)
    }
    return coefficient
  }

  protected learningRate (round: number): number {
    const { schedule, optimizer } = this.c.plan.training
    return learningRateAt(schedule, optimizer.learningRate, round)
  }

  /** The adapters of a client with this middle, in order. */
  protected endsOf (middle: Span): AdapterShape[] {
    return this.c.shapes.filter(({ name }) => !isWithin(middle, blockOf(name)))
  }
}

/** No tensors. */
export const nothing: NamedTensors = { names: [], tensors: [] }

/** Whether clients tell the norm of their gradients, so that all that is stepped in a round is clipped by one norm. */
export function clipsTogether ({ training: { maxGradientNorm, gradientNormScope } }: TrainingPlan): boolean {
  return maxGradientNorm !== null && gradientNormScope === 'global'
}

/** The tokens of all whose middle has this block. */
export function tokensThrough (updates: readonly Update[], block: number): number {
  return updates.filter(({ span }) => isWithin(span, block)).reduce((total, { tokens }) => total + tokens, 0)
}

/** Those of these tensors that there are, by the names without the prefix. */
export function pick (tensors: ReadonlyMap<string, Tensor>, names: readonly string[], prefix = ''): NamedTensors {
  const known = names.filter((name) => tensors.has(prefix + name))
  return { names: known, tensors: known.map((name) => tensors.get(prefix + name) as Tensor) }
}

export function isWithin ({ first, end }: Span, block: number): boolean {
  return first <= block && block < end
}
