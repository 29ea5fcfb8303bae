import type { DeviceTensor } from '../../../model/runtime/device.ts'
import { learningRateAt } from '../../../model/training/learning-rate.ts'
import { clippingCoefficient } from '../../../model/training/optimizer.ts'
import { Parameters, stateNames } from '../../../model/training/parameters.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { UnaveragedTokens } from '../coordinator-state.ts'
import { splitGradientName, type Replicas } from '../hierarchy/replicas.ts'
import type { NamedTensors } from '../participant.ts'
import type { AcceptedUpdate, Update } from '../update.ts'
import { isWithin, pick, type FederatedAdapters, type FederatedAdaptersComponents } from './federated-adapters.ts'
import { blockOf, type AdapterShape, type AggregationStrategy, type ClientSelection, type StepTaken } from './strategy.ts'

/** Where the state keeps the last average of the middle's parameters. */
const MEAN_PREFIX = 'mean/'

/** Where the state keeps the parameters and moments of other servers than this one, and tokens of all servers. */
const REPLICA_PREFIX = 'replica/'

export interface HierarchicalComponents extends FederatedAdaptersComponents {
  /** What becomes of the clients' own blocks. */
  readonly ends: FederatedAdapters
  /** Rounds from one average to the next. */
  readonly every: number
  readonly replicas: Replicas
  /** The name that this server has among the replicas: `parameters` are its own. */
  readonly self: string
}

/** One server's parameters of its blocks, and its optimiser's state. */
interface Copy {
  readonly parameters: Parameters
  readonly names: readonly string[]
  free (): void
}

/**
 * The papers' server-hierarchical strategy: each server steps its own parameters of the middle with the gradients of its own clients, and
 * every so many rounds all take over the mean of these, weighted by the tokens that each has seen since the last time. Every server keeps
 * moments of its own, over averages too. All steps are taken here, where they are made durable, on gradients that the servers computed:
 * servers may be lost at any instant, and there is nothing to reconcile. The clients' own blocks are another strategy's.
 */
export class HierarchicalAggregation implements AggregationStrategy {
  readonly #c: HierarchicalComponents
  readonly #copies = new Map<string, Copy>()
  readonly #middle: readonly string[]
  /** The middle's parameters before the first step of all, which nothing durable has. */
  #initial: ReadonlyMap<string, Tensor> | undefined

  constructor (components: HierarchicalComponents) {
    const { plan: { partitions: { inputBlocks, outputBlocks }, model }, parameters } = components
    this.#c = components
    const middle = { first: inputBlocks.min ?? 0, end: model.blocks - (outputBlocks.min ?? 0) }
    this.#middle = parameters.names.filter((name) => isWithin(middle, blockOf(name)))
  }

  get selection (): ClientSelection { return this.#c.ends.selection }

  get collectsNorms (): boolean { return this.#c.ends.collectsNorms }

  expectedFrom (middle: Span, round: number): readonly AdapterShape[] {
    return this.#c.ends.expectedFrom(middle, round)
  }

  stateFor (middle: Span, clientRound: number): NamedTensors {
    return this.#c.ends.stateFor(middle, clientRound)
  }

  /** The adapters as of the last step, those of the middle as of the last average. */
  async committed (except?: Span): Promise<NamedTensors & { readonly round: number }> {
    const { round, names, tensors } = await this.#c.ends.committed(except)
    const { tensors: kept } = this.#c.state
    return { round, names, tensors: names.map((name, index) => kept.get(MEAN_PREFIX + name) ?? tensors[index] as Tensor) }
  }

  /** A server's own adapters as of the last step; the last average where it has taken none since. */
  async committedFor (server: string): Promise<NamedTensors & { readonly round: number }> {
    const { ends, self, state: { tensors: kept }, replicas } = this.#c
    if (server === self) return await ends.committed()
    const { round, names, tensors } = await this.committed()
    if (!replicas.has(server)) return { round, names, tensors }
    return { round, names, tensors: names.map((name, index) => kept.get(replicaName(server, name)) ?? tensors[index] as Tensor) }
  }

  async isSummable (gradients: ReadonlyMap<string, DeviceTensor>, parts: number): Promise<boolean> {
    return await this.#c.ends.isSummable(gradients, parts)
  }

  async clippingCoefficient (middleGradients: ReadonlyMap<string, DeviceTensor>, updates: readonly Update[]): Promise<number> {
    return await this.#c.ends.clippingCoefficient(middleGradients, updates)
  }

  /** Steps the clients' own blocks, and then each server's; gradients of the middle are named by `gradientName`. */
  async step (
    round: number,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[],
    coefficient?: number
  ): Promise<StepTaken> {
    const { ends, parameters, replicas, every } = this.#c
    const means = await this.#means()
    for (const server of keptServers(this.#c.state.tensors)) await this.#copyOf(server, means)
    const step = await ends.step(round, new Map(), accepted, coefficient)
    const byServer = Map.groupBy(middleGradients, ([key]) => splitGradientName(key).server)
    const before = tokensOfReplicas(this.#c.state.unaveragedTokens)
    const tokens = new Map([...before].map(([server, own]) => [server, { ...own }]))
    for (const [server, gradients] of [...byServer].sort(([a], [b]) => a < b ? -1 : 1)) {
      const own = new Map(gradients.map(([key, gradient]) => [splitGradientName(key).name, gradient]))
      const seen = this.#tokensOf(server, own.keys(), accepted)
      await this.#stepServer(round, server, own, seen, means)
      const counted = tokens.get(server) ?? {}
      for (const [block, count] of seen) counted[block] = (counted[block] ?? 0) + count
      tokens.set(server, counted)
    }
    const isAveraging = (round + 1) % every === 0
    const averages = isAveraging ? await this.#average(tokens, means) : means
    return {
      scale: step.scale,
      for: (middle) => step.for(middle),
      tensors: new Map([
        ...step.tensors,
        ...await parameters.state(this.#middle),
        ...[...averages].map(([name, value]) => [MEAN_PREFIX + name, value] as const),
        ...await this.#states()
      ]),
      unaveragedTokens: {
        ...withoutReplicas(step.unaveragedTokens),
        ...isAveraging ? {} : Object.fromEntries([...tokens].map(([server, own]) => [REPLICA_PREFIX + server, own]))
      },
      replicas: replicas.record(isAveraging)
    }
  }

  async revert (): Promise<void> {
    const { ends, state } = this.#c
    await ends.revert()
    for (const [server, copy] of this.#copies) {
      const kept = keptState(state.tensors, server, copy.names)
      if (kept.size > 0) await copy.parameters.restore(kept)
      else this.#free(server)
    }
  }

  /** The middle's parameters as of the last average. */
  async #means (): Promise<ReadonlyMap<string, Tensor>> {
    const { state, parameters } = this.#c
    const kept = state.tensors
    if (this.#middle.every((name) => kept.has(MEAN_PREFIX + name)))
      return new Map(this.#middle.map((name) => [name, kept.get(MEAN_PREFIX + name) as Tensor]))
    return this.#initial ??= await parameters.values(this.#middle)
  }

  /** The tokens that a server's gradients of each block are sums over. */
  #tokensOf (server: string, names: Iterable<string>, accepted: readonly AcceptedUpdate[]): Map<number, number> {
    const { replicas } = this.#c
    const blocks = new Set([...names].map(blockOf))
    return new Map([...blocks].map((block) => [
      block,
      accepted.filter(({ peer, span }) => isWithin(span, block) && replicas.assigned(peer, block) === server)
        .reduce((sum, { tokens }) => sum + tokens, 0)
    ]))
  }

  /** Steps one server's parameters, each on the mean over the tokens that passed it there, clipped by the norm of that server's step. */
  async #stepServer (
    round: number,
    server: string,
    gradients: ReadonlyMap<string, DeviceTensor>,
    tokens: ReadonlyMap<number, number>,
    means: ReadonlyMap<string, Tensor>
  ): Promise<void> {
    const { plan: { training: { schedule, optimizer: { learningRate }, maxGradientNorm } }, optimizer } = this.#c
    const counted = (name: string): number => tokens.get(blockOf(name)) ?? 0
    const sound = new Map([...gradients].filter(([name]) => counted(name) > 0))
    if (sound.size === 0) return
    const { parameters } = await this.#copyOf(server, means)
    const norms = await Promise.all([...sound].map(async ([name, gradient]) => await optimizer.norm([gradient]) / counted(name)))
    const coefficient = clippingCoefficient(Math.hypot(...norms), maxGradientNorm)
    for (const [count, alike] of Map.groupBy(sound, ([name]) => counted(name))) {
      const settings = { learningRate: learningRateAt(schedule, learningRate, round), scale: coefficient / count }
      await parameters.step(optimizer, new Map(alike), settings)
    }
  }

  /** Returns a server's parameters. One that has taken no step starts from the last average. */
  async #copyOf (server: string, means: ReadonlyMap<string, Tensor>): Promise<Copy> {
    const { device, parameters: own, self, replicas, state } = this.#c
    if (server === self) return { parameters: own, names: this.#middle, free: () => {} }
    const known = this.#copies.get(server)
    if (known !== undefined) return known
    const span = replicas.servers.find(({ peer }) => peer === server)?.span
    const kept = keptState(state.tensors, server, this.#middle)
    const names = this.#middle.filter((name) => kept.has(name) || (span !== undefined && isWithin(span, blockOf(name))))
    const values = new Map<string, DeviceTensor>()
    for (const name of names) values.set(name, await device.upload(means.get(name) as Tensor))
    const parameters = await Parameters.create(device, values)
    await parameters.restore(kept)
    const copy = {
      parameters,
      names,
      free: () => {
        parameters.free()
        device.free(...values.values())
      }
    }
    this.#copies.set(server, copy)
    return copy
  }

  /** Has all servers take over the mean of what they have, weighted by the tokens of each. Servers that were given up are forgotten. */
  async #average (
    tokens: ReadonlyMap<string, Readonly<Record<string, number>>>,
    means: ReadonlyMap<string, Tensor>
  ): Promise<ReadonlyMap<string, Tensor>> {
    const { device, optimizer, parameters, replicas } = this.#c
    const averages = new Map(means)
    for (const name of this.#middle) {
      const block = blockOf(name)
      const holders: Array<{ value: DeviceTensor, weight: number }> = []
      for (const [server, own] of [...tokens].sort(([a], [b]) => a < b ? -1 : 1)) {
        const weight = own[block] ?? 0
        if (weight > 0) holders.push({ value: (await this.#copyOf(server, means)).parameters.value(name), weight })
      }
      if (holders.length === 0) continue
      const total = holders.reduce((sum, { weight }) => sum + weight, 0)
      const mean = await optimizer.weightedTotal(holders.map(({ value, weight }) => ({ value, weight: weight / total })))
      averages.set(name, await device.download(mean))
      device.free(mean)
    }
    await parameters.restore(averages)
    for (const [server, copy] of this.#copies) {
      if (replicas.has(server)) await copy.parameters.restore(averages)
      else this.#free(server)
    }
    return averages
  }

  /** The parameters and moments of all other servers, as they are made durable. */
  async #states (): Promise<Array<[string, Tensor]>> {
    const kept: Array<[string, Tensor]> = []
    for (const [server, { parameters }] of this.#copies)
      for (const [name, value] of await parameters.state()) kept.push([replicaName(server, name), value])
    return kept
  }

  #free (server: string): void {
    this.#copies.get(server)?.free()
    this.#copies.delete(server)
  }
}

function replicaName (server: string, name: string): string {
  return `${REPLICA_PREFIX}${server}/${name}`
}

/** What the state has of one server's parameters and moments, by their own names. */
function keptState (tensors: ReadonlyMap<string, Tensor>, server: string, names: readonly string[]): Map<string, Tensor> {
  const { names: known, tensors: values } = pick(tensors, names.flatMap(stateNames), replicaName(server, ''))
  return new Map(known.map((name, index) => [name, values[index] as Tensor]))
}

/** The servers that the state has parameters of. */
function keptServers (tensors: ReadonlyMap<string, Tensor>): Set<string> {
  const names = [...tensors.keys()].filter((name) => name.startsWith(REPLICA_PREFIX))
  return new Set(names.map((name) => name.slice(REPLICA_PREFIX.length, name.indexOf('/', REPLICA_PREFIX.length))))
}

function tokensOfReplicas (tokens: UnaveragedTokens): Map<string, Readonly<Record<string, number>>> {
  return new Map(Object.entries(tokens).filter(([holder]) => holder.startsWith(REPLICA_PREFIX))
    .map(([holder, own]) => [holder.slice(REPLICA_PREFIX.length), own]))
}

function withoutReplicas (tokens: UnaveragedTokens): UnaveragedTokens {
  return Object.fromEntries(Object.entries(tokens).filter(([holder]) => !holder.startsWith(REPLICA_PREFIX)))
}
