import type { Model } from '../../src/model/families/index.ts'
import { accumulate } from '../../src/model/layers/gradient-sum.ts'
import type { AdapterSettings } from '../../src/model/layers/lora.ts'
import type { WeightSource } from '../../src/model/layers/weights.ts'
import type { Device, DeviceTensor } from '../../src/model/runtime/device.ts'
import { loadClientModel, type ClientModel } from '../../src/model/training/client-model.ts'
import { clippingCoefficient, Optimizer, type OptimizerSettings } from '../../src/model/training/optimizer.ts'
import { Parameters } from '../../src/model/training/parameters.ts'
import { blockOf } from '../../src/roles/training/aggregation/strategy.ts'
import type { Tensor } from '../../src/tensor.ts'

/** What one client puts into a pass of a round. */
export interface Share {
  readonly client: number
  readonly ids: ReadonlyArray<readonly number[]>
  /** Of dropout's random bits; needed where adapters drop out. */
  readonly seed?: string
}

export interface ApartSettings {
  readonly trainable: AdapterSettings
  readonly optimizer: OptimizerSettings
  readonly learningRate: number
  readonly maxGradientNorm: number | null
  /** Whether each party clips by the norm of what it steps, or all by that of one vector of everything that is stepped. */
  readonly gradientNormScope: 'party' | 'global'
  /** The middle of each client: `[first, end)`. */
  readonly middles: ReadonlyArray<readonly [first: number, end: number]>
  /** Holders of a block take its average every so many rounds; never where it is absent. */
  readonly averageEvery?: number
}

interface Replica {
  readonly ends: ClientModel
  readonly parameters: Parameters
}

/** A gradient as a sum over tokens. */
interface Mean {
  readonly gradient: DeviceTensor
  readonly tokens: number
}

/** What one party steps in a round, by name, and in which replicas. */
interface Part {
  readonly holder: string
  readonly means: ReadonlyMap<string, Mean>
  readonly isHeldBy: (client: number, name: string) => boolean
}

/** Sequences that begin with BOS as inputs and next-token targets. */
export function batchOf (
  sequences: ReadonlyArray<readonly number[]>
): { ids: number[][], targets: number[][], lengths: number[], tokens: number } {
  const ids = sequences.map((sequence) => sequence.slice(0, -1))
  const lengths = ids.map(({ length }) => length)
  return { ids, targets: sequences.map((sequence) => sequence.slice(1)), lengths, tokens: lengths.reduce((sum, length) => sum + length, 0) }
}

/**
 * Clients that keep their ends to themselves, written down without a network: every client is a whole model of its own, and what it
 * calls its middle takes the steps of all clients for which that block is in the middle.
 */
export class ApartTrainer {
  readonly #settings: ApartSettings
  readonly #device: Device
  readonly #optimizer: Optimizer
  readonly #replicas: readonly Replica[]
  /** Tokens that each block's holders saw since the last average: of each client, and of the shared middle. */
  readonly #seen = new Map<string, number>()
  #round = 0

  private constructor (settings: ApartSettings, device: Device, optimizer: Optimizer, replicas: readonly Replica[]) {
    this.#settings = settings
    this.#device = device
    this.#optimizer = optimizer
    this.#replicas = replicas
  }

  static async load (device: Device, model: Model, source: WeightSource, settings: ApartSettings): Promise<ApartTrainer> {
    const replicas: Replica[] = []
    for (const _ of settings.middles) {
      const ends = await loadClientModel(device, model, source, { inputBlocks: 0, outputBlocks: model.layers }, settings.trainable)
      replicas.push({ ends, parameters: await Parameters.create(device, ends.weights.trained) })
    }
    return new ApartTrainer(settings, device, await Optimizer.open(device, settings.optimizer), replicas)
  }

  /** One round of these clients. */
  async step (shares: readonly Share[]): Promise<void> {
    const gradients = new Map<number, Map<string, DeviceTensor>>()
    const tokens = new Map<number, number>()
    for (const { client, ids, seed } of shares) {
      const batch = batchOf(ids)
      const sum = gradients.get(client) ?? new Map<string, DeviceTensor>()
      await accumulate(
        this.#device,
        sum,
        await this.#gradients(this.#replicas[client] as Replica, batch, seed === undefined ? {} : { seed })
      )
      gradients.set(client, sum)
      tokens.set(client, (tokens.get(client) ?? 0) + batch.tokens)
    }
    const parts = [
      await this.#middleMeans(gradients, tokens),
      ...[...gradients].map(([client, all]) => this.#ownMeans(client, all, tokens.get(client) as number))
    ]
    const norms = await Promise.all(
      parts.map(async ({ means }) =>
        Math.hypot(
          ...await Promise.all([...means.values()].map(async ({ gradient, tokens }) => await this.#optimizer.norm([gradient]) / tokens))
        )
      )
    )
    for (const [index, part] of parts.entries())
      await this.#step(part, this.#settings.gradientNormScope === 'global' ? Math.hypot(...norms) : norms[index] as number)
    for (const { gradient } of parts[0]?.means.values() ?? []) this.#device.free(gradient)
    for (const all of gradients.values()) this.#device.free(...all.values())
    this.#round++
    if (this.#settings.averageEvery !== undefined && this.#round % this.#settings.averageEvery === 0)
      await this.#average([...gradients.keys()])
  }

  /** A client's whole model: its own ends and the shared middle. */
  async values (client: number): Promise<Map<string, Tensor>> {
    return await (this.#replicas[client] as Replica).parameters.values()
  }

  free (): void {
    for (const { ends, parameters } of this.#replicas) {
      parameters.free()
      ends.weights.free()
    }
  }

  /** What the middle steps, in every replica that has the block in its middle: they all start from the same state. */
  async #middleMeans (
    gradients: ReadonlyMap<number, ReadonlyMap<string, DeviceTensor>>,
    tokens: ReadonlyMap<number, number>
  ): Promise<Part> {
    const sums = new Map<string, Mean>()
    for (const [client, own] of gradients) {
      for (const [name, gradient] of own) {
        if (!this.#isShared(client, name)) continue
        const before = sums.get(name)
        const sum = await this.#optimizer.weightedTotal([
          { value: before?.gradient ?? gradient, weight: before === undefined ? 0 : 1 }, { value: gradient, weight: 1 }
        ])
        if (before !== undefined) this.#device.free(before.gradient)
        sums.set(name, { gradient: sum, tokens: (before?.tokens ?? 0) + (tokens.get(client) as number) })
      }
    }
    return { holder: 'shared', means: sums, isHeldBy: (client, name) => this.#isShared(client, name) }
  }

  /** What a client steps by itself. */
  #ownMeans (owner: number, gradients: ReadonlyMap<string, DeviceTensor>, tokens: number): Part {
    const own = [...gradients].filter(([name]) => !this.#isShared(owner, name))
    return {
      holder: String(owner),
      means: new Map(own.map(([name, gradient]) => [name, { gradient, tokens }])),
      isHeldBy: (client) => client === owner
    }
  }

  async #step ({ holder, means, isHeldBy }: Part, norm: number): Promise<void> {
    const coefficient = clippingCoefficient(norm, this.#settings.maxGradientNorm)
    for (const [name, { gradient, tokens }] of means) {
      for (const [client, { parameters }] of this.#replicas.entries()) {
        if (isHeldBy(client, name))
          await parameters.step(this.#optimizer, new Map([[name, gradient]]), {
            learningRate: this.#settings.learningRate,
            scale: coefficient / tokens
          })
      }
      this.#count(`${holder}/${blockOf(name)}/${name}`, tokens)
    }
  }

  async #average (clients: readonly number[]): Promise<void> {
    const averages = new Map<string, Tensor>()
    for (const name of (this.#replicas[0] as Replica).parameters.names) {
      const holders = clients.filter((client) => !this.#isShared(client, name)).map((client) => ({
        client,
        weight: this.#seen.get(`${client}/${blockOf(name)}/${name}`) ?? 0
      }))
      if (holders.length === 0) continue
      const sharer = this.#replicas.findIndex((_, client) => this.#isShared(client, name))
      if (sharer >= 0) holders.push({ client: sharer, weight: this.#seen.get(`shared/${blockOf(name)}/${name}`) ?? 0 })
      const total = holders.reduce((sum, { weight }) => sum + weight, 0)
      const values = await Promise.all(
        holders.map(async ({ client, weight }) => ({
          weight,
          value: await this.#device.download((this.#replicas[client] as Replica).parameters.value(name))
        }))
      )
      const [{ value: { shape, data } }] = values as [typeof values[number]]
      const mean = Float32Array.from(
        data as Float32Array,
        (_, i) => values.reduce((sum, { value, weight }) => sum + (value.data[i] as number) * weight / total, 0)
      )
      averages.set(name, { dtype: 'float32', shape, data: mean })
    }
    for (const { parameters } of this.#replicas) await parameters.restore(averages)
    this.#seen.clear()
  }

  async #gradients (
    { ends: { bottom, top } }: Replica,
    { ids, targets, lengths }: ReturnType<typeof batchOf>,
    options: { readonly seed?: string }
  ): Promise<Map<string, DeviceTensor>> {
    const { hidden, residuals } = await bottom.forward(ids, { keepResiduals: true, ...options })
    const { gradient, gradients } = await top.train({ hidden, lengths }, targets, options)
    if (residuals === undefined) throw new Error('a training pass kept no residuals')
    await accumulate(this.#device, gradients, await bottom.backward(residuals, gradient))
    this.#device.free(hidden, gradient)
    return gradients
  }

  #isShared (client: number, name: string): boolean {
    const [first, end] = this.#settings.middles[client] as readonly [number, number]
    return first <= blockOf(name) && blockOf(name) < end
  }

  #count (key: string, tokens: number): void {
    this.#seen.set(key, (this.#seen.get(key) ?? 0) + tokens)
  }
}
