import { isDeviceTensor, type AnyTensor, type DeviceTensor, type Device } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import { learningRateAt } from '../../../model/training/learning-rate.ts'
import { clippingCoefficient, type Optimizer } from '../../../model/training/optimizer.ts'
import { stateNames, type Parameters } from '../../../model/training/parameters.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { CoordinatorState } from '../coordinator-state.ts'
import type { AcceptedUpdate, Update } from '../round-execution.ts'
import { blockOf, isAveragingRound, lastAveragingRound, type AdapterShape } from './adapter-shapes.ts'

export interface FederatedAdaptersComponents {
  readonly charter: Charter
  readonly device: Device
  readonly optimizer: Optimizer
  /** Adapters of every block of the model: the server's own, and with shared ends the same as the clients hold. */
  readonly parameters: Parameters
  readonly shapes: readonly AdapterShape[]
  readonly state: CoordinatorState
}

/** Tensors with their names, in the same order. */
export interface Named {
  readonly names: string[]
  readonly tensors: Tensor[]
}

/** A step taken, and what there is to say of it. */
export interface StepTaken {
  /** What summed gradients were multiplied by. */
  readonly scale: number
  /** What a client with this middle must know to keep its own blocks in step. */
  for: (middle: Span) => Named
  /** State after the step, to be made durable. */
  readonly tensors: ReadonlyMap<string, Tensor>
  readonly unaveragedTokens: CoordinatorState['unaveragedTokens']
}

const SERVER = 'server'

/** Of a round's gradients: far above what any text brings, and far enough below the largest float32 that their squares have a sum. */
const MAX_SUMMED_NORM = 1e18

/** The adapters of a federation as its server holds them, and the three ways in which clients' own blocks take part in a step. */
export class FederatedAdapters {
  readonly #components: FederatedAdaptersComponents
  /** Before the first step of all: nothing durable has it. */
  #initial: ReadonlyMap<string, Tensor> | undefined

  constructor (components: FederatedAdaptersComponents) {
    this.#components = components
  }

  /** The tensors that a client with this middle contributes to a round, in order. */
  expectedFrom (middle: Span, round: number): readonly AdapterShape[] {
    const { charter: { ends } } = this.#components
    return ends.mode === 'shared' || isAveragingRound(ends, round) ? this.#endsOf(middle) : []
  }

  /**
   * What a client with this middle that has seen this many rounds missed: with shared ends its blocks' whole state, with averaged ones the
   * last average.
   */
  stateFor (middle: Span, clientRound: number): Named {
    const { charter: { ends }, state } = this.#components
    const names = this.#endsOf(middle).map(({ name }) => name)
    if (ends.mode === 'shared') return pick(state.tensors, clientRound < state.round ? names.flatMap(stateNames) : [])
    return lastAveragingRound(ends, state.round) >= clientRound ? pick(state.tensors, names, AVERAGE_PREFIX) : { names: [], tensors: [] }
  }

  /** The adapters that the server holds as of the last step, or those of blocks outside a span. */
  async committed (except?: Span): Promise<Named & { round: number }> {
    const { state, parameters } = this.#components
    const names = parameters.names.filter((name) => except === undefined || !isWithin(except, blockOf(name)))
    const values = state.round === 0 ? await parameters.values(names) : state.tensors
    return { round: state.round, ...pick(values, names) }
  }

  /**
   * Whether so many parts of a round, each with gradients like these, have a sum to step with: one value that is not finite would spoil all
   * adapters for good.
   */
  async isSummable (gradients: ReadonlyMap<string, DeviceTensor>, parts: number): Promise<boolean> {
    // By the triangle inequality. The comparison is false for NaN.
    return await this.#components.optimizer.norm(gradients.values()) * parts <= MAX_SUMMED_NORM
  }

  /**
   * What brings the norm of all that is stepped in a round down to the charter's: of one vector that holds the middle's gradients, each the
   * mean over the tokens that passed its block, and every client's own, means over its tokens, where clients tell the norm of theirs.
   */
  async clippingCoefficient (middleGradients: ReadonlyMap<string, DeviceTensor>, works: readonly Update[]): Promise<number> {
    const { charter, optimizer } = this.#components
    const middle = await Promise.all(
      [...middleGradients].map(async ([name, gradient]) => await optimizer.norm([gradient]) / tokensThrough(works, blockOf(name)))
    )
    const own = works.map(({ norm, tokens }) => norm / tokens)
    return clippingCoefficient(Math.hypot(...middle, ...own), charter.training.maxGradientNorm)
  }

  /** Takes one step with everything that counted in a round, clipped by `coefficient` where clients have been told one. */
  async step (
    round: number,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    counted: readonly AcceptedUpdate[],
    coefficient?: number
  ): Promise<StepTaken> {
    const { state, parameters } = this.#components
    this.#initial = state.round === 0 ? this.#initial ?? await parameters.state() : undefined
    return this.#components.charter.ends.mode === 'shared'
      ? await this.#sharedStep(round, middleGradients, counted)
      : await this.#ownStep(round, middleGradients, counted, coefficient ?? await this.clippingCoefficient(middleGradients, counted))
  }

  /** Goes back to the last step that was made durable. */
  async revert (): Promise<void> {
    const { parameters, state } = this.#components
    await parameters.restore(state.round === 0 ? this.#initial ?? new Map() : state.tensors)
  }

  /** Every holder of a block adds its gradient and takes the same step: data parallelism, exactly. */
  async #sharedStep (
    round: number,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    counted: readonly AcceptedUpdate[]
  ): Promise<StepTaken> {
    const { charter, optimizer, parameters, state } = this.#components
    using scope = new Scope(this.#components.device)
    const sums = await this.#summed(scope, middleGradients, counted)
    const tokens = counted.reduce((total, { tokens }) => total + tokens, 0)
    const coefficient = clippingCoefficient(await optimizer.norm(sums.values()) / tokens, charter.training.maxGradientNorm)
    const scale = coefficient / tokens
    await parameters.step(optimizer, sums, { learningRate: this.#learningRate(round), scale })
    const gradients = await this.#download(sums)
    return {
      scale,
      for: (middle) => pick(gradients, this.#endsOf(middle).map(({ name }) => name)),
      tensors: await parameters.state(),
      unaveragedTokens: state.unaveragedTokens
    }
  }

  /** The server steps its own blocks, each on the mean over the tokens that passed it; clients have stepped theirs. */
  async #ownStep (
    round: number,
    gradients: ReadonlyMap<string, DeviceTensor>,
    counted: readonly AcceptedUpdate[],
    coefficient: number
  ): Promise<StepTaken> {
    const { charter, optimizer, parameters, state } = this.#components
    for (const [tokens, alike] of Map.groupBy(gradients, ([name]) => tokensThrough(counted, blockOf(name)))) {
      await parameters.step(optimizer, new Map(alike), { learningRate: this.#learningRate(round), scale: coefficient / tokens })
    }
    const unaveragedTokens = this.#addTokens(state.unaveragedTokens, counted)
    const averages = isAveragingRound(charter.ends, round) ? await this.#average(counted, unaveragedTokens) : undefined
    const kept = new Map([...state.tensors].filter(([name]) => name.startsWith(AVERAGE_PREFIX)))
    const named = new Map([...averages ?? []].map(([name, value]) => [AVERAGE_PREFIX + name, value]))
    return {
      scale: coefficient,
      for: (middle) => averages === undefined ? { names: [], tensors: [] } : pick(averages, this.#endsOf(middle).map(({ name }) => name)),
      tensors: new Map([...kept, ...named, ...await parameters.state()]),
      unaveragedTokens: averages === undefined ? unaveragedTokens : {}
    }
  }

  /** Parameters averaged over their holders, weighted by the tokens that each saw since the last time. The server takes them over too. */
  async #average (counted: readonly AcceptedUpdate[], tokens: CoordinatorState['unaveragedTokens']): Promise<Map<string, Tensor>> {
    const { device, optimizer, parameters, shapes } = this.#components
    const averages = new Map<string, Tensor>()
    for (const { name } of shapes) {
      const block = blockOf(name)
      const holders = counted
        .flatMap(({ peer, contribution }) => {
          const value = contribution.get(name)
          return value === undefined ? [] : [{ value, weight: tokens[peer]?.[block] ?? 0 }]
        })
      if (holders.length === 0) continue
      const own = tokens[SERVER]?.[block] ?? 0
      const total = holders.reduce((sum, { weight }) => sum + weight, own)
      let mean = await optimizer.weightedSum(parameters.value(name), own / total, parameters.value(name), 0)
      for (const { value, weight } of holders) {
        const next = await optimizer.weightedSum(mean, 1, value, weight / total)
        device.free(mean)
        mean = next
      }
      averages.set(name, await device.download(mean))
      device.free(mean)
    }
    await parameters.restore(averages)
    return averages
  }

  /**
   * Sums the gradients of all holders of each block: the server's first, then the clients' in the order of their ids. Alone, a gradient is
   * its own sum.
   */
  async #summed (
    scope: Scope,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    counted: readonly AcceptedUpdate[]
  ): Promise<Map<string, AnyTensor>> {
    const { optimizer } = this.#components
    const sums = new Map<string, AnyTensor>(middleGradients)
    for (const { contribution } of counted) {
      for (const [name, gradient] of contribution) {
        const before = sums.get(name)
        sums.set(name, before === undefined ? gradient : scope.own(await optimizer.weightedSum(before, 1, gradient, 1)))
      }
    }
    return sums
  }

  /** What some client's blocks may need, in host memory. */
  async #download (tensors: ReadonlyMap<string, AnyTensor>): Promise<Map<string, Tensor>> {
    const { charter: { partitions: { inputBlocks, outputBlocks }, model: { blocks } }, device } = this.#components
    const shared = [...tensors].filter(([name]) => blockOf(name) < inputBlocks.max || blockOf(name) >= blocks - outputBlocks.max)
    const held = shared.flatMap(([name, value]) => isDeviceTensor(value) ? [[name, value] as const] : [])
    const downloaded = await device.downloadAll(held.map(([, value]) => value))
    const here = new Map(held.map(([name], index) => [name, downloaded[index] as Tensor]))
    return new Map(shared.map(([name, value]) => [name, isDeviceTensor(value) ? here.get(name) as Tensor : value]))
  }

  #addTokens (before: CoordinatorState['unaveragedTokens'], counted: readonly AcceptedUpdate[]): CoordinatorState['unaveragedTokens'] {
    const { charter: { model: { blocks } } } = this.#components
    const after: Record<string, Record<string, number>> = structuredClone(before)
    const add = (holder: string, block: number, tokens: number): void => {
      const own = after[holder] ??= {}
      own[block] = (own[block] ?? 0) + tokens
    }
    for (let block = 0; block < blocks; block++) {
      add(SERVER, block, tokensThrough(counted, block))
      for (const { peer, span, tokens } of counted) if (!isWithin(span, block)) add(peer, block, tokens)
    }
    return after
  }

  #learningRate (round: number): number {
    const { training: { schedule, optimizer } } = this.#components.charter
    return learningRateAt(schedule, optimizer.learningRate, round)
  }

  #endsOf (middle: Span): AdapterShape[] {
    return this.#components.shapes.filter(({ name }) => !isWithin(middle, blockOf(name)))
  }
}

/** Where the state keeps the last average of a parameter, apart from the server's own value of it. */
const AVERAGE_PREFIX = 'average/'

/** Of all whose middle has this block. */
function tokensThrough (works: readonly Update[], block: number): number {
  return works.filter(({ span }) => isWithin(span, block)).reduce((total, { tokens }) => total + tokens, 0)
}

function pick (tensors: ReadonlyMap<string, Tensor>, names: readonly string[], prefix = ''): Named {
  const known = names.filter((name) => tensors.has(prefix + name))
  return { names: known, tensors: known.map((name) => tensors.get(prefix + name) as Tensor) }
}

function isWithin ({ first, end }: Span, block: number): boolean {
  return first <= block && block < end
}
