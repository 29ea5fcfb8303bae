import type { DeviceTensor } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
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

/** Averaged ends: every holder of a block steps its own, and every so many rounds all of them take over their average. */
export class AveragedAggregation extends FederatedAdapters {
  readonly collectsNorms: boolean
  readonly #every: number

  constructor (components: FederatedAdaptersComponents, every: number) {
    super(components)
    this.collectsNorms = clipsTogether(components.plan)
    this.#every = every
  }

  /** The adapters of the client's own blocks, in a round that ends with an average. */
  expectedFrom (middle: Span, round: number): readonly AdapterShape[] {
    return isAveragingRound(round, this.#every) ? this.endsOf(middle) : []
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
      const block = blockOf(name)
      const holders = accepted.flatMap(({ peer, contribution }) => {
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

  constructor (plan: TrainingPlan, every: number) {
    super(plan)
    this.#every = every
  }

  override async contribution (round: number, adapters: ClientAdapters): Promise<ReadonlyMap<string, Tensor>> {
    return isAveragingRound(round, this.#every) ? await adapters.values() : new Map()
  }

  override async finish (adapters: ClientAdapters, end: RoundEnd): Promise<void> {
    await super.finish(adapters, end)
    await adapters.adopt(end.tensors)
  }
}

function isAveragingRound (round: number, every: number): boolean {
  return (round + 1) % every === 0
}
