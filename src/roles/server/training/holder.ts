import type { DeviceTensor } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { LocalForwardPass, LocalStage } from '../../middle/local-stage.ts'
import { tokensOf, type BatchItem, type OutputGradient, type PassOptions } from '../../middle/stage.ts'

export type OutputGradients = ReadonlyMap<string, Pick<OutputGradient, 'tensors'>>

/** The sums of adapter gradients of one pass, on the coordinator's device, by name. Whoever has them frees them. */
export interface CollectedGradients {
  readonly gradients: Map<string, DeviceTensor>
  /** False where a value that came from a worker is not finite. Gradients of this device are not looked at. */
  readonly isFinite: boolean
}

/** Items whose activations a holder keeps for the backward pass. */
export interface HolderPass {
  /** The hidden states of every item after its last block, in the encoding of the wire, by item id. */
  readonly hidden: ReadonlyMap<string, readonly Tensor[]>
  /** Computes gradients of inputs from those of outputs, by item id. An item without a gradient counts as if it had not been there. */
  backward (gradients: OutputGradients, signal: AbortSignal): Promise<ReadonlyMap<string, readonly Tensor[]>>
  /** Resolves with the adapter gradients after `backward`. The caller frees them. */
  collect (signal: AbortSignal): Promise<CollectedGradients>
  /** Frees what is kept. Called again, it does nothing. */
  free (): void
}

/** Who computes a span of blocks for the coordinator: its own device, or a worker. */
export interface Holder {
  readonly peer: string
  readonly isLocal: boolean
  readonly span: Span
  /** Measured tokens a second times blocks; undefined while nothing was measured. */
  readonly speed: number | undefined
  /** Computes items through blocks of the span. The caller frees the pass. */
  forward (items: readonly BatchItem[], options: Pick<PassOptions, 'dropoutSeed'>, signal: AbortSignal): Promise<HolderPass>
  /** Computes one item and keeps nothing. */
  evaluate (item: BatchItem, signal: AbortSignal): Promise<readonly Tensor[]>
}

/** The holders that a coordinator knows. */
export interface Holders {
  /** Those that can be asked now, in the order of their peer ids. */
  available (): readonly Holder[]
  /** Resolves when `available` may return something else. Rejects with the signal's reason. */
  changed (signal: AbortSignal): Promise<void>
  /** Notes that a holder was lost while it was asked something: it is left out for a moment. */
  lost (holder: Holder, error: unknown): void
  /** Notes that a holder did its part of a pass. */
  worked (holder: Holder): void
  /** Notes that what a holder answered is wrong: it is left out for a while. */
  faulty (holder: Holder, reason: string): void
}

/** How fast a holder is: a running mean over what it computed, one piece of work after another. */
export class SpeedMeter {
  #speed: number | undefined
  #doneAtMs = 0

  get speed (): number | undefined { return this.#speed }

  /** Notes that items are done that were asked for at `askedAtMs`. Before that the holder was busy with what it was asked earlier. */
  done (items: readonly BatchItem[], askedAtMs: number): void {
    const nowMs = performance.now()
    const speed = workOf(items) / Math.max(nowMs - Math.max(askedAtMs, this.#doneAtMs), MIN_MEASURED_MS) * 1000
    this.#doneAtMs = nowMs
    this.#speed = this.#speed === undefined ? speed : this.#speed + WEIGHT_OF_NEWEST * (speed - this.#speed)
  }
}

/** How much the newest measurement counts: a holder that became slower is noticed within a few passes. */
const WEIGHT_OF_NEWEST = 0.3

/** Shorter times say nothing about speed. */
const MIN_MEASURED_MS = 0.1

/** Returns the tokens of items, each times the blocks that it passes. */
export function workOf (items: readonly BatchItem[]): number {
  return items.reduce((sum, { first, end, tensors }) => sum + tokensOf(tensors) * (end - first), 0)
}

/** Has work done in the order in which it comes. Micro-batches that took turns on a device would all be done last. */
class Turns {
  #last: Promise<unknown> = Promise.resolve()

  async take<T> (work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(work)
    this.#last = mine.catch(() => {}) // whoever asked for it hears of it
    return await mine
  }
}

/** The blocks on the coordinator's own device. */
export class LocalHolder implements Holder {
  readonly peer: string
  readonly isLocal = true
  readonly #stage: LocalStage
  readonly #turns = new Turns()
  readonly #meter = new SpeedMeter()

  constructor (peer: string, stage: LocalStage) {
    this.peer = peer
    this.#stage = stage
  }

  get span (): Span { return this.#stage.span }
  get speed (): number | undefined { return this.#meter.speed }

  async forward (items: readonly BatchItem[], options: Pick<PassOptions, 'dropoutSeed'>): Promise<HolderPass> {
    const askedAtMs = performance.now()
    const pass = await this.#turns.take(async () => await this.#stage.forward(items, options))
    this.#meter.done(items, askedAtMs)
    return new LocalHolderPass(pass, this.#turns)
  }

  async evaluate (item: BatchItem): Promise<readonly Tensor[]> {
    return await this.#stage.evaluate(item)
  }
}

class LocalHolderPass implements HolderPass {
  readonly #pass: LocalForwardPass
  readonly #turns: Turns
  #isFreed = false

  constructor (pass: LocalForwardPass, turns: Turns) {
    this.#pass = pass
    this.#turns = turns
  }

  get hidden (): ReadonlyMap<string, readonly Tensor[]> { return this.#pass.hidden }

  async backward (gradients: OutputGradients): Promise<ReadonlyMap<string, readonly Tensor[]>> {
    return await this.#turns.take(async () => await this.#pass.backward(gradients))
  }

  async collect (): Promise<CollectedGradients> {
    return { gradients: this.#pass.takeGradients(), isFinite: true }
  }

  free (): void {
    if (!this.#isFreed) this.#pass.free()
    this.#isFreed = true
  }
}
