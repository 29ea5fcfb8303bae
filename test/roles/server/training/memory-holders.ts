import { MidspanError } from '../../../../src/errors.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { withSignal } from '../../../../src/protocols/wire/wait.ts'
import type { LocalStage } from '../../../../src/roles/middle/local-stage.ts'
import type { BatchItem, PassOptions } from '../../../../src/roles/middle/stage.ts'
import {
  LocalHolder,
  type CollectedGradients,
  type Holder,
  type HolderPass,
  type Holders,
  type OutputGradients
} from '../../../../src/roles/server/training/holder.ts'
import { isFiniteTensor, type Tensor } from '../../../../src/tensor.ts'

export type HolderOperation = 'forward' | 'backward' | 'collect' | 'evaluate'

/** What becomes of something that a holder is asked: it is lost, or answers with values that are not finite. */
export type Mishap = 'lost' | 'nan' | undefined

/** Says what happens to the next thing that a holder is asked. */
export type Mishaps = (holder: MemoryHolder, operation: HolderOperation) => Mishap

export class LostError extends MidspanError {
  constructor () {
    super('E_TEST_LOST', 'the holder was lost', { retryable: true })
  }
}

/** A worker in memory: a local stage behind an interface that can fail. */
export class MemoryHolder implements Holder {
  readonly peer: string
  readonly isLocal = false
  speed: number | undefined
  /** The items of each forward. */
  readonly forwards: string[][] = []
  readonly #holder: LocalHolder
  readonly #device: Device
  readonly #mishaps: Mishaps

  constructor (peer: string, stage: LocalStage, device: Device, mishaps: Mishaps = () => undefined) {
    this.peer = peer
    this.#holder = new LocalHolder(peer, stage)
    this.#device = device
    this.#mishaps = mishaps
  }

  get span (): { first: number, end: number } { return this.#holder.span }

  async forward (items: readonly BatchItem[], options: Pick<PassOptions, 'dropoutSeed'>): Promise<HolderPass> {
    this.forwards.push(items.map(({ id }) => id))
    const mishap = this.#happens('forward')
    const pass = await this.#holder.forward(items, options)
    return new MemoryPass(pass, this.#device, mishap, (operation) => this.#happens(operation))
  }

  async evaluate (item: BatchItem): Promise<readonly Tensor[]> {
    this.#happens('evaluate')
    return await this.#holder.evaluate(item)
  }

  #happens (operation: HolderOperation): Mishap {
    const mishap = this.#mishaps(this, operation)
    if (mishap === 'lost') throw new LostError()
    return mishap
  }
}

class MemoryPass implements HolderPass {
  readonly hidden: ReadonlyMap<string, readonly Tensor[]>
  readonly #pass: HolderPass
  readonly #device: Device
  readonly #happens: (operation: HolderOperation) => Mishap

  constructor (pass: HolderPass, device: Device, mishap: Mishap, happens: (operation: HolderOperation) => Mishap) {
    this.#pass = pass
    this.#device = device
    this.#happens = happens
    this.hidden = mishap === 'nan' ? spoiled(pass.hidden) : pass.hidden
  }

  async backward (gradients: OutputGradients, signal: AbortSignal): Promise<ReadonlyMap<string, readonly Tensor[]>> {
    const mishap = this.#happens('backward')
    const inputs = await this.#pass.backward(gradients, signal)
    return mishap === 'nan' ? spoiled(inputs) : inputs
  }

  async collect (signal: AbortSignal): Promise<CollectedGradients> {
    const mishap = this.#happens('collect')
    const { gradients } = await this.#pass.collect(signal)
    if (mishap === 'nan') {
      for (const [name, gradient] of gradients) {
        const value = await this.#device.download(gradient)
        this.#device.free(gradient)
        gradients.set(name, await this.#device.upload(nans(value)))
      }
    }
    const values = await this.#device.downloadAll([...gradients.values()])
    return { gradients, isFinite: values.every(isFiniteTensor) }
  }

  free (): void { this.#pass.free() }
}

/** Holders of which some may be away for a while. */
export class MemoryHolders implements Holders {
  readonly all: Holder[]
  readonly away = new Set<string>()
  readonly losses: string[] = []
  readonly faults: string[] = []
  /** Whether a holder that was lost is back a moment later. */
  comesBack = true
  #changed = Promise.withResolvers<void>()

  constructor (all: Holder[]) {
    this.all = all
  }

  available (): readonly Holder[] {
    return this.all.filter(({ peer }) => !this.away.has(peer)).sort((a, b) => a.peer < b.peer ? -1 : 1)
  }

  async changed (signal: AbortSignal): Promise<void> {
    await withSignal(this.#changed.promise, signal)
  }

  lost (holder: Holder): void {
    this.losses.push(holder.peer)
    this.away.add(holder.peer)
    if (this.comesBack) setTimeout(() => { this.back(holder.peer) }, 0)
  }

  worked (): void {}

  faulty (holder: Holder): void {
    this.faults.push(holder.peer)
    this.away.add(holder.peer)
  }

  back (peer: string): void {
    this.away.delete(peer)
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }
}

function spoiled (all: ReadonlyMap<string, readonly Tensor[]>): Map<string, readonly Tensor[]> {
  return new Map([...all].map(([id, tensors]) => [id, tensors.map(nans)]))
}

function nans ({ dtype, shape, data }: Tensor): Tensor {
  return { dtype, shape, data: new Float32Array(data.length).fill(NaN) }
}
