import type { Program } from '../../../src/model/graph/program.ts'
import {
  DeviceError,
  type AnyTensor,
  type ComputeType,
  type Device,
  type DeviceMemory,
  type DeviceTensor,
  type Executable,
  type Keystream,
  type ProgramCall,
  type SequenceOptions
} from '../../../src/model/runtime/device.ts'
import { bytesPerElement, elementCount, fromBytes, type DType, type Tensor } from '../../../src/tensor.ts'
import { outputShapes } from './output-shapes.ts'

/** How fast a simulated device takes tokens through a block. Whatever else it computes takes no time. */
export interface DeviceSpeed {
  /** Milliseconds that a run of one block takes, however few its tokens are: its weights are read once. */
  readonly blockMs: number
  /** Milliseconds that each token of a run takes in a block, besides. */
  readonly tokenMs: number
}

/** Computes nothing, in no time. */
export const instantly: DeviceSpeed = { blockMs: 0, tokenMs: 0 }

/** A backward pass has two products for each one of the forward pass. */
const BACKWARD = 2

/** Programs of a block: those of training, and those over a KV cache. */
const BLOCK_PROGRAM = /^(block($|\.)|cached-block-)/

/**
 * A device that computes nothing: a run takes as long as its tokens and blocks would take on a device of this speed, by a timer, and gives
 * outputs of the right types and shapes whose values are zeros. Runs follow one another, as on a device.
 */
export class SimulatedDevice implements Device {
  readonly kind = 'cpu'
  readonly compute: ComputeType
  readonly #speed: DeviceSpeed
  readonly #live = new Set<DeviceTensor>()
  readonly #memory = { heldBytes: 0, uploadedBytes: 0, downloadedBytes: 0 }
  #tensors = 0
  #busyMs = 0
  #messages = 0
  /** When everything that was asked for so far is computed. */
  #freeAtMs = 0
  #isClosed = false

  constructor (speed: DeviceSpeed, compute: ComputeType = 'fp32') {
    this.#speed = speed
    this.compute = compute
  }

  /** Milliseconds that the runs so far take together. */
  get busyMs (): number { return this.#busyMs }

  /** Messages that a device in a thread of its own would have been sent, but for those that free tensors. */
  get messages (): number { return this.#messages }

  async memory (): Promise<DeviceMemory> {
    return { ...this.#memory }
  }

  async compile (program: Program): Promise<Executable> {
    this.#ask()
    const executable: Executable = {
      program,
      run: async (inputs, { keep = [], inPlace = {} } = {}) => await this.runSequence([{ executable, inputs, inPlace }], { keep }),
      close: async () => {}
    }
    return executable
  }

  async runSequence (calls: readonly ProgramCall[], { keep = [], also = [] }: SequenceOptions = {}): Promise<Record<string, AnyTensor>> {
    this.#ask()
    const computed = new Map<string, { readonly dtype: DType, readonly shape: readonly number[] }>()
    const results: Record<string, AnyTensor> = {}
    let ms = 0
    for (const [index, { executable: { program }, inputs, inPlace = {} }] of calls.entries()) {
      const shapes = Object.fromEntries(Object.entries(inputs).map(([name, value]) =>
        [name, 'output' in value ? computed.get(value.output)?.shape : value.shape]))
      ms += this.#msOf(program, shapes.hidden?.[0] ?? 0)
      const outputs = outputShapes(program, shapes, new Set(Object.keys(inPlace)))
      for (const { name, dtype } of program.outputs) {
        const shape = outputs[name]
        if (shape !== undefined) computed.set(name, { dtype, shape })
        else if (index === calls.length - 1) results[name] = inputs[inPlace[name]!] as DeviceTensor
      }
    }
    const last = calls.at(-1)!.executable.program.outputs.map(({ name }) => name).filter((name) => results[name] === undefined)
    await this.#spend(ms)
    for (const name of new Set([...last, ...also])) {
      const { dtype, shape } = computed.get(name)!
      results[name] = keep === 'all' || keep.includes(name) ? this.#hold(dtype, shape) : this.#zeros(dtype, shape)
    }
    return results
  }

  async upload ({ dtype, shape, data }: Tensor): Promise<DeviceTensor> {
    this.#ask()
    this.#memory.uploadedBytes += data.byteLength
    return this.#hold(dtype, shape)
  }

  async zeros (dtype: DType, shape: readonly number[]): Promise<DeviceTensor> {
    this.#ask()
    return this.#hold(dtype, shape)
  }

  async randomBits (shape: readonly number[], _keystreams?: readonly Keystream[]): Promise<DeviceTensor> {
    this.#ask()
    return this.#hold('uint32', shape)
  }

  async download (value: DeviceTensor): Promise<Tensor> {
    return (await this.downloadAll([value]))[0]!
  }

  async downloadAll (values: readonly DeviceTensor[]): Promise<Tensor[]> {
    this.#ask()
    await this.#spend(0)
    return values.map(({ dtype, shape }) => this.#zeros(dtype, shape))
  }

  free (...values: readonly DeviceTensor[]): void {
    for (const value of values) {
      if (this.#live.delete(value)) this.#memory.heldBytes -= sizeBytes(value)
      else if (!this.#isClosed) throw new DeviceError('a tensor is freed twice, or is another device\'s')
    }
  }

  async close (): Promise<void> {
    this.#isClosed = true
    this.#live.clear()
  }

  /** Waits for what was asked for before, and then for a run that takes so long. */
  async #spend (ms: number): Promise<void> {
    const now = performance.now()
    this.#busyMs += ms
    this.#freeAtMs = Math.max(now, this.#freeAtMs) + ms
    if (this.#freeAtMs > now) await new Promise((resolve) => { setTimeout(resolve, this.#freeAtMs - now) })
    this.#check()
  }

  #msOf ({ name }: Program, tokens: number): number {
    if (!BLOCK_PROGRAM.test(name)) return 0
    const { blockMs, tokenMs } = this.#speed
    return (blockMs + tokens * tokenMs) * (name === 'block.backward' ? BACKWARD : 1)
  }

  #hold (dtype: DType, shape: readonly number[]): DeviceTensor {
    const held = { id: this.#tensors++, dtype, shape: [...shape] }
    this.#live.add(held)
    this.#memory.heldBytes += sizeBytes(held)
    return held
  }

  #zeros (dtype: DType, shape: readonly number[]): Tensor {
    const bytes = new Uint8Array(sizeBytes({ dtype, shape }))
    this.#memory.downloadedBytes += bytes.byteLength
    return fromBytes(dtype, shape, bytes)
  }

  /** Counts a message. */
  #ask (): void {
    this.#messages++
    this.#check()
  }

  #check (): void {
    if (this.#isClosed) throw new DeviceError('the simulated device is closed')
  }
}

function sizeBytes ({ dtype, shape }: Pick<DeviceTensor, 'dtype' | 'shape'>): number {
  return elementCount(shape) * bytesPerElement[dtype]
}
