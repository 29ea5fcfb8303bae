import { CachedSpan } from '../../model/generation/cached-span.ts'
import { SequenceCache } from '../../model/generation/kv-cache.ts'
import { accumulate, GradientSum } from '../../model/layers/gradient-sum.ts'
import { concatRows, sliceRows } from '../../model/layers/hidden-states.ts'
import type { Boundary } from '../../model/privacy/boundary.ts'
import { continued, type Device, type DeviceTensor } from '../../model/runtime/device.ts'
import { Scope } from '../../model/runtime/scope.ts'
import type { SavedActivations, TrainableSpan } from '../../model/training/trainable-span.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import { clientDropoutSeed } from '../training/participant.ts'
import { segments, type Segment } from './segments.ts'
import {
  checkPosition,
  tokensOf,
  type BatchItem,
  type CachedHiddenStates,
  type ForwardPass,
  type OutputGradient,
  type PassOptions,
  type Stage,
  type StageCache
} from './stage.ts'

/** Tokens that share a run, at most: bounds the device memory that one run's activations take. */
const MAX_BATCHED_TOKENS = 16_384

export interface LocalStageComponents {
  readonly device: Device
  readonly span: TrainableSpan
  readonly boundary: Boundary
}

/** Blocks on this device, at work for several clients at once. */
export class LocalStage implements Stage {
  readonly #components: LocalStageComponents
  readonly #cached: CachedSpan

  constructor (components: LocalStageComponents) {
    this.#components = components
    this.#cached = new CachedSpan(components.span.weights)
  }

  get span (): Span { return this.#components.span.span }

  /** Computes everyone's hidden states through their blocks, and saves what `backward` needs. Items are taken in the order of their ids. */
  async forward (items: readonly BatchItem[], { dropoutSeed }: Pick<PassOptions, 'dropoutSeed'>): Promise<LocalForwardPass> {
    return await LocalForwardPass.start(this.#components, items, dropoutSeed)
  }

  /** Makes an empty sum of adapter gradients over several passes. The caller disposes of it. */
  gradientSum (): GradientSum {
    return new GradientSum(this.#components.device)
  }

  async evaluate ({ first, end, lengths, contexts, tensors }: BatchItem): Promise<Tensor[]> {
    const { device, span, boundary } = this.#components
    const held = [await boundary.decode(tensors)]
    try {
      const { hidden } = await span.forward({ hidden: held[0] as DeviceTensor, lengths, contexts }, { first, end, keepResiduals: false })
      held.push(hidden)
      return await boundary.encode(hidden)
    } finally {
      device.free(...held)
    }
  }

  async openCache (span: Span, capacity: number): Promise<StageCache> {
    const { device, boundary, span: { model } } = this.#components
    return new LocalCache(await SequenceCache.create(device, model, span, capacity), this.#cached, boundary)
  }
}

/** A KV cache on this device. */
class LocalCache implements StageCache {
  readonly #cache: SequenceCache
  readonly #blocks: CachedSpan
  readonly #boundary: Boundary
  #closed = false

  constructor (cache: SequenceCache, blocks: CachedSpan, boundary: Boundary) {
    this.#cache = cache
    this.#blocks = blocks
    this.#boundary = boundary
  }

  get capacity (): number { return this.#cache.capacity }
  get length (): number { return this.#cache.length }

  async forward ({ tensors, context }: CachedHiddenStates): Promise<readonly Tensor[]> {
    const count = tokensOf(tensors)
    const { calls, input } = continued(await this.#boundary.decoding(tensors))
    const through = await this.#blocks.forwardCalls(input, [{ cache: this.#cache, count, context }], this.#cache.span)
    const outputs = await this.#boundary.encode({ calls: [...calls, ...through], output: 'output' }, count)
    this.#cache.length += count
    return outputs
  }

  rewind (position: number): void {
    checkPosition(position, this.length)
    this.#cache.length = position
  }

  async close (): Promise<void> {
    if (!this.#closed) this.#cache.free()
    this.#closed = true
    await Promise.resolve()
  }
}

interface Run {
  readonly segment: Segment
  readonly residuals: SavedActivations
}

/** The saved activations of one run of several clients' hidden states through their blocks. */
export class LocalForwardPass implements ForwardPass {
  readonly hidden = new Map<string, readonly Tensor[]>()
  /** The adapter gradients of the blocks after `backward`, by name: sums over the items that have a gradient. */
  adapterGradients: Map<string, DeviceTensor> = new Map()
  readonly #components: LocalStageComponents
  readonly #items: ReadonlyMap<string, BatchItem>
  readonly #runs: Run[] = []
  /** All hidden states of this pass on the device, so that none stays behind when a run fails. */
  readonly #scope: Scope

  private constructor (components: LocalStageComponents, items: readonly BatchItem[]) {
    this.#components = components
    this.#scope = new Scope(components.device)
    this.#items = new Map(items.map((item) => [item.id, item]))
  }

  static async start (components: LocalStageComponents, items: readonly BatchItem[], dropoutSeed: string): Promise<LocalForwardPass> {
    const pass = new LocalForwardPass(components, items)
    try {
      await pass.#forward(dropoutSeed)
      return pass
    } catch (error) {
      pass.free()
      throw error
    }
  }

  async #forward (passSeed: string): Promise<void> {
    const { boundary, span } = this.#components
    const states = new Map<string, DeviceTensor>()
    for (const { id, tensors } of this.#items.values()) states.set(id, this.#scope.own(await boundary.decode(tensors)))
    const plan = segments(
      [...this.#items.values()].map(({ id, first, end, tensors }) => ({ id, first, end, rows: tokensOf(tensors) })),
      MAX_BATCHED_TOKENS
    )
    for (const segment of plan) {
      const { first, end } = segment
      const items = segment.items.map((id) => this.#item(id))
      const lengths = items.flatMap((item) => item.lengths)
      const contexts = items.flatMap((item) => item.contexts ?? [])
      const seeds = items.map(({ id, tensors }) => ({ rows: tokensOf(tensors), seed: clientDropoutSeed(passSeed, id) }))
      const joined = await this.#join(segment, states)
      const { hidden, residuals } = await span.forward({ hidden: joined, lengths, contexts }, { first, end, keepResiduals: true, seeds })
      if (residuals === undefined) throw new Error('a training pass kept no residuals')
      this.#runs.push({ segment, residuals })
      await this.#split(segment, this.#scope.own(hidden), states)
    }
    await this.#encode(states, this.hidden)
  }

  async backward (gradients: ReadonlyMap<string, Pick<OutputGradient, 'tensors'>>): Promise<Map<string, readonly Tensor[]>> {
    const { boundary, device, span } = this.#components
    this.#freeGradients()
    const states = new Map<string, DeviceTensor>()
    for (const { id, tensors } of this.#items.values()) {
      const gradient = gradients.get(id)
      states.set(
        id,
        this.#scope.own(
          gradient === undefined ? await device.zeros('float32', tensors[0]?.shape ?? []) : await boundary.decode(gradient.tensors)
        )
      )
    }
    for (const { segment, residuals } of this.#runs.toReversed()) {
      const joined = await this.#join(segment, states)
      const { gradient, adapters } = await span.backward(residuals, joined)
      this.#scope.own(gradient)
      this.#scope.free(joined)
      await accumulate(device, this.adapterGradients, adapters)
      await this.#split(segment, gradient, states)
    }
    const inputs = new Map<string, readonly Tensor[]>()
    await this.#encode(states, inputs)
    return new Map([...inputs].filter(([id]) => gradients.has(id)))
  }

  /** Hands the adapter gradients over to the caller, who frees them. */
  takeGradients (): Map<string, DeviceTensor> {
    const gradients = this.adapterGradients
    this.adapterGradients = new Map()
    return gradients
  }

  /** Frees everything that the pass holds on the device. */
  free (): void {
    this.#freeGradients()
    for (const { residuals } of this.#runs.splice(0)) residuals.free()
    this.#scope[Symbol.dispose]()
  }

  /** Joins the hidden states of a segment's items, in order, and removes them from `states`. */
  async #join (segment: Segment, states: Map<string, DeviceTensor>): Promise<DeviceTensor> {
    const parts = segment.items.map((id) => states.get(id) as DeviceTensor)
    for (const id of segment.items) states.delete(id)
    if (parts.length === 1) return parts[0] as DeviceTensor
    const joined = this.#scope.own(await concatRows(this.#components.device, parts))
    this.#scope.free(...parts)
    return joined
  }

  /** Gives each of a segment's items its own part of the result. */
  async #split (segment: Segment, result: DeviceTensor, states: Map<string, DeviceTensor>): Promise<void> {
    const { device } = this.#components
    const [only, ...others] = segment.items
    if (others.length === 0) {
      states.set(only as string, result)
      return
    }
    let start = 0
    for (const id of segment.items) {
      const end = start + tokensOf(this.#item(id).tensors)
      states.set(id, this.#scope.own(await sliceRows(device, result, start, end)))
      start = end
    }
    this.#scope.free(result)
  }

  /** Rounds every item's states for the wire, and frees them. */
  async #encode (states: ReadonlyMap<string, DeviceTensor>, target: Map<string, readonly Tensor[]>): Promise<void> {
    for (const id of this.#items.keys()) {
      const held = states.get(id) as DeviceTensor
      target.set(id, await this.#components.boundary.encode(held))
      this.#scope.free(held)
    }
  }

  #freeGradients (): void {
    this.#components.device.free(...this.adapterGradients.values())
    this.adapterGradients = new Map()
  }

  #item (id: string): BatchItem {
    const item = this.#items.get(id)
    if (item === undefined) throw new RangeError(`${id} is not in the batch`)
    return item
  }
}
