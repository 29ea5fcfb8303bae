import type { DeviceTensor } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'
import { float32, type Tensor } from '../../../tensor.ts'
import type { UnaveragedTokens } from '../coordinator-state.ts'
import type { NamedTensors } from '../participant.ts'
import type { TrainingPlan } from '../plan.ts'
import type { AcceptedUpdate } from '../update.ts'
import {
  clipsTogether,
  FederatedAdapters,
  isWithin,
  nothing,
  pick,
  tokensThrough,
  type FederatedAdaptersComponents
} from './federated-adapters.ts'
import { PersonalClient } from './personal.ts'
import { blockOf, type AdapterShape, type ClientAdapters, type RoundEnd, type StepTaken } from './strategy.ts'

/** The holder that the server is of the blocks of its middle. */
const SERVER = 'server'

/** Where the state keeps the last average of a parameter, apart from the server's own value of it. */
const AVERAGE_PREFIX = 'average/'

/** The name by which clients add their weight to a secure sum, behind their adapters times that weight. */
const WEIGHT = 'weight'

/** Tokens that a weight of 1 in a secure sum stands for: a power of two, between what one round and what thousands of rounds bring. */
const WEIGHT_TOKENS = 2 ** 16

/** What holders bring to an average: values, what to multiply them by to have them weighted by tokens, and the tokens. */
interface Holding {
  readonly value: Tensor
  readonly factor: number
  readonly tokens: number
}

/** Averaged ends: every holder of a block steps its own, and every so many rounds all of them take over their average. */
export class AveragedAggregation extends FederatedAdapters {
  readonly collectsNorms: boolean
  readonly #every: number

  constructor (components: FederatedAdaptersComponents, every: number) {
    super(components)
    this.collectsNorms = clipsTogether(components.plan)
    this.#every = every
  }

  /** The adapters of the client's own blocks, in a round that ends with an average; for a secure sum its weight as well. */
  expectedFrom (middle: Span, round: number): readonly AdapterShape[] {
    if (!isAveragingRound(round, this.#every)) return []
    return [...this.endsOf(middle), ...sumsSecurely(this.c.plan) ? [{ name: WEIGHT, shape: [1] }] : []]
  }

  /** The last average, where the client was not there for it. */
  stateFor (middle: Span, clientRound: number): NamedTensors {
    const { state } = this.c
    const lastAveraged = Math.floor(state.round / this.#every) * this.#every - 1
    return lastAveraged >= clientRound ? pick(state.tensors, this.endsOf(middle).map(({ name }) => name), AVERAGE_PREFIX) : nothing
  }

  protected async takeStep (
    round: number,
    gradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[],
    told: number | undefined
  ): Promise<StepTaken> {
    const { state, parameters } = this.c
    const scale = await this.stepMiddle(round, gradients, accepted, told)
    const unaveragedTokens = this.#addTokens(state.unaveragedTokens, accepted)
    const averages = isAveragingRound(round, this.#every) ? await this.#average(accepted, unaveragedTokens) : undefined
    const kept = new Map([...state.tensors].filter(([name]) => name.startsWith(AVERAGE_PREFIX)))
    const named = new Map([...averages ?? []].map(([name, value]) => [AVERAGE_PREFIX + name, value]))
    return {
      scale,
      for: (middle) => averages === undefined ? nothing : pick(averages, this.endsOf(middle).map(({ name }) => name)),
      tensors: new Map([...kept, ...named, ...await parameters.state()]),
      unaveragedTokens: averages === undefined ? unaveragedTokens : {}
    }
  }

  /** Averages parameters over their holders, weighted by the tokens that each saw since the last time. The server takes them over too. */
  async #average (accepted: readonly AcceptedUpdate[], tokens: UnaveragedTokens): Promise<Map<string, Tensor>> {
    const { device, optimizer, parameters, shapes } = this.c
    const averages = new Map<string, Tensor>()
    for (const { name } of shapes) {
      const holders = this.#holdings(name, accepted, tokens)
      if (holders.length === 0) continue
      const own = tokens[SERVER]?.[blockOf(name)] ?? 0
      const total = holders.reduce((sum, holding) => sum + holding.tokens, own)
      if (!(total > 0)) throw new RangeError(`the weights of an average add up to ${total}`)
      const mean = await optimizer.weightedTotal([
        { value: parameters.value(name), weight: own / total },
        ...holders.map(({ value, factor }) => ({ value, weight: factor / total }))
      ])
      averages.set(name, await device.download(mean))
      device.free(mean)
    }
    await parameters.restore(averages)
    return averages
  }

  /**
   * What the holders of an adapter bring to its average. Of a secure sum the values are weighted already, and the clients say by how much.
   */
  #holdings (name: string, accepted: readonly AcceptedUpdate[], tokens: UnaveragedTokens): Holding[] {
    return accepted.flatMap(({ peer, contribution }) => {
      const value = contribution.get(name)
      if (value === undefined) return []
      const weight = contribution.get(WEIGHT)?.data[0]
      if (weight !== undefined) return [{ value, factor: WEIGHT_TOKENS, tokens: Number(weight) * WEIGHT_TOKENS }]
      const seen = tokens[peer]?.[blockOf(name)] ?? 0
      return [{ value, factor: seen, tokens: seen }]
    })
  }

  /** The tokens that each holder has seen of each of its blocks since the last average, with those of this round. */
  #addTokens (before: UnaveragedTokens, accepted: readonly AcceptedUpdate[]): UnaveragedTokens {
    const after: Record<string, Record<string, number>> = structuredClone(before)
    const add = (holder: string, block: number, tokens: number): void => {
      const own = after[holder] ??= {}
      own[block] = (own[block] ?? 0) + tokens
    }
    for (let block = 0; block < this.c.plan.model.blocks; block++) {
      add(SERVER, block, tokensThrough(accepted, block))
      for (const { peer, span, tokens } of accepted) if (!isWithin(span, block)) add(peer, block, tokens)
    }
    return after
  }
}

/** A client with averaged ends: it steps its own blocks, hands them in for an average, and takes the average over. */
export class AveragedClient extends PersonalClient {
  readonly #every: number
  readonly #isWeighted: boolean

  constructor (plan: TrainingPlan, every: number) {
    super(plan)
    this.#every = every
    this.#isWeighted = sumsSecurely(plan)
  }

  /** The adapters; for a secure sum times the tokens that this client has seen since the last average, and behind them these tokens. */
  override async contribution (
    round: number,
    adapters: ClientAdapters,
    _gradients: ReadonlyMap<string, DeviceTensor>,
    unaveragedTokens: number
  ): Promise<ReadonlyMap<string, Tensor>> {
    if (!isAveragingRound(round, this.#every)) return new Map()
    const values = await adapters.values()
    if (!this.#isWeighted) return values
    const weight = unaveragedTokens / WEIGHT_TOKENS
    const weighted = [...values].map(([name, { shape, data }]): [string, Tensor] =>
      [name, float32(shape, (data as Float32Array).map((value) => value * weight))])
    return new Map([...weighted, [WEIGHT, float32([1], [weight])]])
  }

  override async finish (adapters: ClientAdapters, end: RoundEnd): Promise<void> {
    await super.finish(adapters, end)
    await adapters.adopt(end.tensors)
  }
}

/** Whether clients' contributions are known to the server as a sum alone. */
function sumsSecurely ({ aggregation }: TrainingPlan): boolean {
  return aggregation?.mode === 'secure'
}

function isAveragingRound (round: number, every: number): boolean {
  return (round + 1) % every === 0
}
