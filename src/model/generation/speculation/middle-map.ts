import { Worker } from 'node:worker_threads'
import { float32, type Tensor } from '../../../tensor.ts'
import { compiled } from '../../runtime/compiled.ts'
import type { AnyTensor, Device, DeviceTensor, OutputRef, ProgramCall } from '../../runtime/device.ts'
import { accumulateProgram, predictProgram } from './middle-map-programs.ts'
import type { RidgeSums } from './ridge-solver.ts'

/** A map of wider states is not learnt: at this size a fit takes a minute of one core and 150 MB. */
export const MAX_MAP_HIDDEN = 1536

/** Pairs that are added to the sums together: one message to the device, and one product. */
const PAIRS_PER_RUN = 256

/** Pairs before the first fit, and the growth after which the next is made. */
const FIRST_FIT_PAIRS = 2048
const FIT_GROWTH = 1.5

/** Beyond this number of pairs, fits are made at equal distances: more pairs hardly change the map. */
const FIT_DISTANCE = 16_384

/** The weight of the identity in the sums of the inputs. */
const RIDGE = 3

/** The first states of a sequence have norms that are many times those of the others, and say nothing of them. */
const FIRST_POSITION = 4

/** The worker entry beside this file, with the extension that this file has: sources run as .ts, the published build as .js. */
const entry = new URL(import.meta.url.endsWith('.ts') ? './ridge-worker.ts' : './ridge-worker.js', import.meta.url)

/** What is learnt so far: it can be kept and restored. */
export interface MiddleMapState {
  readonly pairs: number
  readonly zz: Tensor
  readonly zy: Tensor
  /** [2 hidden + 1, hidden]; undefined before the first fit. */
  readonly map: Tensor | undefined
}

/**
 * A linear map in place of the middle: from the state that enters the middle at a position, and the one that left it one position before,
 * to the state that leaves it. It is learnt by ridge regression from the states that pass in a client's ordinary traffic. What it predicts
 * is good for drafts alone. Sums stay on the device; the regression is solved in a thread of its own.
 */
export class MiddleMap {
  readonly #device: Device
  readonly #hidden: number
  readonly #onFit: () => void
  /** Pairs that are not in the sums yet, each [hidden] times three. */
  readonly #waiting: Array<readonly [entering: Float32Array, before: Float32Array, leaving: Float32Array]> = []
  #sums: { readonly zz: DeviceTensor, readonly zy: DeviceTensor } | undefined
  #map: DeviceTensor | undefined
  /** The map before the last fit: a prediction that was prepared with it may still run. */
  #retired: DeviceTensor | undefined
  #pairs = 0
  #fittedPairs = 0
  #work: Promise<void> = Promise.resolve()
  #closed = false

  /** `onFit` is called when there is a new map. Throws RangeError for states wider than MAX_MAP_HIDDEN. The caller closes the map. */
  constructor (device: Device, hidden: number, onFit: () => void = () => {}) {
    if (hidden > MAX_MAP_HIDDEN) throw new RangeError(`states of ${hidden} numbers are too wide for a map: ${MAX_MAP_HIDDEN} at most`)
    this.#device = device
    this.#hidden = hidden
    this.#onFit = onFit
  }

  /** Whether there is a map. */
  get isReady (): boolean { return this.#map !== undefined }

  /** Pairs that were learnt from. */
  get pairs (): number { return this.#pairs }

  /**
   * Learns from consecutive states of one sequence, [count, hidden] each: those that entered the middle from `position` on, and those that
   * left it. `before` [hidden] left it at the position before. Returns at once; errors end the learning.
   */
  observe (position: number, entering: Float32Array, leaving: Float32Array, before: Float32Array | undefined): void {
    if (this.#closed) return
    const width = this.#hidden
    const row = (x: Float32Array, i: number): Float32Array => x.subarray(i * width, (i + 1) * width)
    for (let i = 0; i < leaving.length / width; i++) {
      const previous = i > 0 ? row(leaving, i - 1) : before
      if (position + i >= FIRST_POSITION && previous !== undefined) this.#waiting.push([row(entering, i), previous, row(leaving, i)])
    }
    while (this.#waiting.length >= PAIRS_PER_RUN) this.#enqueue(this.#waiting.splice(0, PAIRS_PER_RUN))
  }

  /** Prepares the prediction of what leaves the middle as a call in a sequence. Its output is `predicted` [1, hidden]. */
  async predictCall (entering: AnyTensor | OutputRef, before: AnyTensor | OutputRef): Promise<ProgramCall> {
    const executable = await compiled(this.#device, `middle-map.predict ${this.#hidden}`, () => predictProgram(this.#hidden))
    return { executable, inputs: { entering, before, map: this.#map! } }
  }

  /** Resolves when what was observed so far is learnt. Throws what the learning ended with. */
  async settled (): Promise<void> {
    await this.#work
  }

  /** Returns what is learnt; undefined before anything is. */
  async state (): Promise<MiddleMapState | undefined> {
    if (this.#sums === undefined) return undefined
    const pairs = this.#pairs
    const { zz, zy } = this.#sums
    const held = [zz, zy, ...(this.#map === undefined ? [] : [this.#map])]
    const [a, b, map] = await this.#device.downloadAll(held)
    return { pairs, zz: a!, zy: b!, map }
  }

  /** Goes on from a state. The map has learnt nothing before. */
  async restore ({ pairs, zz, zy, map }: MiddleMapState): Promise<void> {
    this.#sums = { zz: await this.#device.upload(zz), zy: await this.#device.upload(zy) }
    if (map !== undefined) this.#map = await this.#device.upload(map)
    this.#pairs = pairs
    this.#fittedPairs = pairs
  }

  /** Ends the learning and frees what is on the device. */
  async close (): Promise<void> {
    this.#closed = true
    await this.#work.catch(() => {})
    this.#device.free(...[this.#sums?.zz, this.#sums?.zy, this.#map, this.#retired].filter((held) => held !== undefined))
    this.#sums = this.#map = this.#retired = undefined
  }

  #enqueue (pairs: ReadonlyArray<readonly [Float32Array, Float32Array, Float32Array]>): void {
    this.#work = this.#work.then(async () => {
      if (this.#closed) return
      await this.#accumulate(pairs)
      const fitted = this.#fittedPairs
      const distance = fitted === 0 ? FIRST_FIT_PAIRS : Math.min(FIT_DISTANCE, fitted * (FIT_GROWTH - 1))
      if (this.#pairs >= fitted + distance) await this.#fit()
    })
    this.#work.catch(() => { this.#closed = true }) // `settled` tells
  }

  async #accumulate (pairs: ReadonlyArray<readonly [Float32Array, Float32Array, Float32Array]>): Promise<void> {
    const [device, hidden] = [this.#device, this.#hidden]
    const width = 2 * hidden + 1
    const sums = this.#sums ??= {
      zz: await device.zeros('float32', [width, width]), zy: await device.zeros('float32', [width, hidden])
    }
    const rows = (place: 0 | 1 | 2): Tensor => {
      const data = new Float32Array(pairs.length * hidden)
      for (const [i, pair] of pairs.entries()) data.set(pair[place], i * hidden)
      return float32([pairs.length, hidden], data)
    }
    const executable = await compiled(device, `middle-map.accumulate ${hidden}`, () => accumulateProgram(hidden))
    const results = await executable.run({ entering: rows(0), before: rows(1), leaving: rows(2), ...sums }, { keep: 'all' })
    this.#sums = { zz: results['sum.zz'] as DeviceTensor, zy: results['sum.zy'] as DeviceTensor }
    device.free(sums.zz, sums.zy)
    this.#pairs += pairs.length
  }

  async #fit (): Promise<void> {
    const [zz, zy] = await this.#device.downloadAll([this.#sums!.zz, this.#sums!.zy])
    const [inputs, outputs] = [2 * this.#hidden + 1, this.#hidden]
    const pairs = this.#pairs
    const solution = await solved({ inputs, outputs, zz: zz!.data as Float32Array, zy: zy!.data as Float32Array })
    this.#fittedPairs = pairs
    const map = await this.#device.upload(float32([inputs, outputs], solution))
    if (this.#retired !== undefined) this.#device.free(this.#retired)
    this.#retired = this.#map
    this.#map = map
    this.#onFit()
  }
}

/** Solves the regression in a thread. */
async function solved (sums: RidgeSums): Promise<Float32Array> {
  const worker = new Worker(entry, { workerData: { sums, ridge: RIDGE }, execArgv: [] })
  worker.unref()
  try {
    return await new Promise<Float32Array>((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
      worker.once('exit', () => { reject(new Error('the thread that fits the map of the middle ended')) })
    })
  } finally {
    await worker.terminate()
  }
}
