import { Worker } from 'node:worker_threads'
import { bytesPerElement, bytesOf, elementCount, type DType, type Tensor } from '../../tensor.ts'
import type { Program } from '../graph/program.ts'
import {
  checkCompute,
  DeviceError,
  isDeviceTensor,
  type AnyTensor,
  type SequenceOptions,
  type CompileOptions,
  type ComputeType,
  type Device,
  type DeviceKind,
  type DeviceMemory,
  type DeviceTensor,
  type Executable,
  type Keystream,
  type ProgramCall
} from './device.ts'
import type { Answer, Held, Operand, Outcome, Request, Run, WorkerOptions } from './messages.ts'

export interface DeviceOptions {
  /** Threads within one operator; the number of physical cores when left out. */
  threads?: number
  /** fp32 when left out. */
  compute?: ComputeType
  /**
   * A directory for onnxruntime's trace of each session, `${session}-${program}_${time}.json`, written when the device closes. Tracing
   * costs time.
   */
  profile?: string
}

/** Opens a device of a kind, as `openDevice` does. The caller closes it. */
export type OpenDevice = (kind: DeviceKind, options: DeviceOptions) => Promise<Device>

/** onnxruntime 1.30 has one WebGPU context in a process, and threads that use it at the same time crash each other. */
let hasWebGpu = false

/**
 * Opens a device. Throws DeviceError where this machine has none of this kind, for a second webgpu device in this process, and for int8
 * products on another device than the CPU.
 */
export async function openDevice (kind: DeviceKind, options: DeviceOptions = {}): Promise<Device> {
  // onnxruntime 1.30 for Linux reports its use to its maker over HTTPS unless the process's environment forbids it. A worker thread's
  // process.env is a copy that native code does not see, so that it has to be set here, before the library is loaded.
  process.env.ORT_DISABLE_TELEMETRY = '1'
  return await WorkerDevice.open(kind, options)
}

/** The worker entry beside this file, with the extension that this file has: sources run as .ts, the published build as .js. */
const WORKER_ENTRY = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url)

/** Values up to this size are cloned with their message; larger ones are copied once and moved, which costs some microseconds each. */
const CLONE_UP_TO_BYTES = 16_384

/** What the worker knows of an executable. */
interface Compiled {
  readonly session: number
  /** Inputs that are fixed. */
  readonly constants: ReadonlySet<string>
}

type Success = Extract<Answer, { ok: true }>

interface Waiting {
  readonly what: string
  readonly resolve: (answer: Success) => void
  readonly reject: (error: DeviceError) => void
}

/** A device whose sessions and tensors live in a worker thread. */
class WorkerDevice implements Device {
  readonly kind: DeviceKind
  readonly compute: ComputeType
  readonly #worker: Worker
  readonly #profiles: boolean
  readonly #waiting: Waiting[] = []
  readonly #live = new Map<number, DeviceTensor>()
  readonly #compiled = new WeakMap<Executable, Compiled>()
  readonly #memory = { heldBytes: 0, uploadedBytes: 0, downloadedBytes: 0 }
  #failure: DeviceError | undefined
  #sessions = 0

  constructor (kind: DeviceKind, compute: ComputeType, worker: Worker, profiles: boolean) {
    this.kind = kind
    this.compute = compute
    this.#profiles = profiles
    this.#worker = worker
    worker.on('message', (answer: Answer) => {
      this.#settle(answer)
    })
    worker.on('error', (cause) => {
      this.#fail(new DeviceError(`the ${kind} device's thread died: ${cause instanceof Error ? cause.message : String(cause)}`, { cause }))
    })
    worker.on('exit', () => {
      if (kind === 'webgpu') hasWebGpu = false
      this.#fail(new DeviceError(`the ${kind} device is closed`))
    })
    if (kind === 'webgpu') hasWebGpu = true
  }

  static async open (kind: DeviceKind, { threads, compute = 'fp32', profile }: DeviceOptions): Promise<WorkerDevice> {
    if (kind === 'webgpu' && hasWebGpu)
      throw new DeviceError('this process has a webgpu device already', { next: 'share it, or close it first' })
    checkCompute(kind, compute)
    const workerData: WorkerOptions = { kind, ...(threads === undefined ? {} : { threads }), ...(profile === undefined ? {} : { profile }) }
    const device = new WorkerDevice(kind, compute, new Worker(WORKER_ENTRY, { workerData, execArgv: [] }), profile !== undefined)
    try {
      await device.#ask(`opening the ${kind} device`, { kind: 'open' })
      return device
    } catch (error) {
      await device.close()
      throw error
    }
  }

  async memory (): Promise<DeviceMemory> {
    return { ...this.#memory }
  }

  async compile (program: Program, { constants = {} }: CompileOptions = {}): Promise<Executable> {
    const held = Object.fromEntries(
      Object.entries(constants).flatMap(([name, value]) =>
        isDeviceTensor(value) ? [[name, this.#idOf(value, `compile ${program.name} with`)]] : []
      )
    )
    const constantBytes = Object.values(constants).reduce((sum, value) => sum + sizeBytes(value), 0)
    const model = program.toOnnx(constants)
    const session = ++this.#sessions
    await this.#ask(`compiling ${program.name}`, {
      kind: 'compile',
      session,
      name: program.name,
      model,
      constants: held,
      outputs: program.outputs.map(({ name, dtype }) => ({ name, dtype }))
    })
    const executable: Executable = {
      program,
      run: async (inputs, { keep = [], inPlace = {} } = {}) => await this.runSequence([{ executable, inputs, inPlace }], { keep }),
      close: async () => {
        if (!this.#compiled.delete(executable)) return
        this.#memory.heldBytes -= constantBytes
        await this.#ask(`closing ${program.name}`, { kind: 'release', session })
      }
    }
    this.#compiled.set(executable, { session, constants: new Set(Object.keys(constants)) })
    this.#memory.heldBytes += constantBytes
    return executable
  }

  async runSequence (calls: readonly ProgramCall[], { keep = [], also = [] }: SequenceOptions = {}): Promise<Record<string, AnyTensor>> {
    const last = calls.at(-1)
    if (last === undefined) throw new DeviceError('a chain needs a program')
    const moved = new Set<ArrayBuffer>()
    const passed = passedOn(calls, also)
    const runs = calls.map((call, index) => this.#runOf(call, index === calls.length - 1 ? undefined : passed[index], moved))
    const results: Record<string, AnyTensor> = {}
    const outputs: Outcome[] = []
    const comesOut = (name: string): void => { outputs.push({ name, keep: keep === 'all' || keep.includes(name) }) }
    for (const { name, inPlace } of runs.at(-1)!.outputs) {
      if (inPlace === undefined) comesOut(name)
      else results[name] = last.inputs[last.inPlace![name]!] as DeviceTensor
    }
    for (const name of also) if (outputs.every((output) => output.name !== name)) comesOut(name)
    const what = [...new Set(calls.map(({ executable: { program } }) => program.name))].join(', ')
    const { held, values } = await this.#ask(`program ${what}`, { kind: 'run', runs, outputs }, [...moved])
    let [nextHeld, nextValue] = [0, 0]
    for (const { name, keep } of outputs) results[name] = keep ? this.#adopt(held[nextHeld++]!) : this.#received(values[nextValue++]!)
    return results
  }

  async upload (value: Tensor, { given = false }: { given?: boolean } = {}): Promise<DeviceTensor> {
    const moved = new Set<ArrayBuffer>()
    const { held } = await this.#ask('an upload', { kind: 'upload', value: this.#packed(value, moved, given) }, [...moved])
    return this.#adopt(held[0]!)
  }

  async zeros (dtype: DType, shape: readonly number[]): Promise<DeviceTensor> {
    const { held } = await this.#ask(`a ${dtype} tensor of shape [${shape.join(', ')}]`, { kind: 'zeros', dtype, shape })
    return this.#adopt(held[0]!)
  }

  async randomBits (shape: readonly number[], keystreams?: readonly Keystream[]): Promise<DeviceTensor> {
    const { held } = await this.#ask(`random bits of shape [${shape.join(', ')}]`, { kind: 'random', shape, keystreams })
    if (this.kind !== 'cpu') this.#memory.uploadedBytes += sizeBytes(held[0]!)
    return this.#adopt(held[0]!)
  }

  async download (value: DeviceTensor): Promise<Tensor> {
    return (await this.downloadAll([value]))[0]!
  }

  async downloadAll (values: readonly DeviceTensor[]): Promise<Tensor[]> {
    const downloaded = await this.#ask('a download', { kind: 'download', ids: values.map((value) => this.#idOf(value, 'download')) })
    return downloaded.values.map((value) => this.#received(value))
  }

  free (...values: readonly DeviceTensor[]): void {
    const ids = values.map((value) => {
      const id = this.#idOf(value, 'free')
      this.#live.delete(id)
      this.#memory.heldBytes -= sizeBytes(value)
      return id
    })
    if (ids.length > 0 && this.#failure === undefined) this.#worker.postMessage({ kind: 'free', ids } satisfies Request)
  }

  async close (): Promise<void> {
    if (this.#profiles && this.#failure === undefined) await this.#ask('writing traces', { kind: 'endProfiling' })
    this.#fail(new DeviceError(`the ${this.kind} device is closed`))
    await this.#worker.terminate()
  }

  /** Returns a call as the worker is told of it; of all but the last, only what later ones take comes out. */
  #runOf ({ executable, inputs, inPlace = {} }: ProgramCall, taken: ReadonlySet<string> | undefined, moved: Set<ArrayBuffer>): Run {
    const { program } = executable
    const compiled = this.#compiled.get(executable)
    if (compiled === undefined) throw new DeviceError(`program ${program.name} is closed`)
    const operands: Record<string, Operand> = {}
    for (const { name, dtype } of program.inputs) {
      if (compiled.constants.has(name)) continue
      const value = inputs[name]
      if (value === undefined) throw new DeviceError(`program ${program.name} lacks its input ${name}`)
      if ('output' in value) {
        operands[name] = value
        continue
      }
      if (value.dtype !== dtype) throw new DeviceError(`program ${program.name} takes ${dtype} for ${name}, not ${value.dtype}`)
      operands[name] = isDeviceTensor(value) ? this.#idOf(value, `run ${program.name} on`) : this.#packed(value, moved)
    }
    const outputs = program.outputs.filter(({ name }) => taken === undefined || taken.has(name) || inPlace[name] !== undefined).map(
      ({ name }) => {
        const target = inPlace[name] === undefined ? undefined : inputs[inPlace[name]]
        if (target !== undefined && !('id' in target))
          throw new DeviceError(`program ${program.name} can write ${name} only into a device tensor`)
        return { name, inPlace: target?.id }
      }
    )
    return { session: compiled.session, inputs: operands, outputs }
  }

  async #ask (what: string, request: Request, transfer: ArrayBuffer[] = []): Promise<Success> {
    if (this.#failure !== undefined) throw this.#failure
    return await new Promise((resolve, reject) => {
      this.#waiting.push({ what, resolve, reject })
      this.#worker.postMessage(request, transfer)
    })
  }

  #settle (answer: Answer): void {
    const asked = this.#waiting.shift()
    if (asked === undefined) return // refused when the device closed
    if (answer.ok) asked.resolve(answer)
    else asked.reject(new DeviceError(`${asked.what} failed: ${answer.message}`))
  }

  #fail (error: DeviceError): void {
    this.#failure ??= error
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure)
  }

  #adopt (held: Held): DeviceTensor {
    this.#live.set(held.id, held)
    this.#memory.heldBytes += sizeBytes(held)
    return held
  }

  #idOf (value: DeviceTensor, what: string): number {
    if (this.#live.get(value.id) !== value)
      throw new DeviceError(`cannot ${what} a ${value.dtype} tensor of shape [${value.shape.join(', ')}]: it is freed, or another device's`)
    return value.id
  }

  /**
   * Returns values as they go to the worker: small ones as they are, large ones as a copy whose buffer is moved. The caller keeps its own.
   */
  #packed (value: Tensor, moved: Set<ArrayBuffer>, given = false): Tensor {
    this.#memory.uploadedBytes += value.data.byteLength
    const whole = value.data.byteLength === value.data.buffer.byteLength
    if (whole && value.data.byteLength <= CLONE_UP_TO_BYTES) return value
    const data = given && whole ? value.data : value.data.slice()
    moved.add(data.buffer as ArrayBuffer)
    return { dtype: value.dtype, shape: value.shape, data }
  }

  #received (value: Tensor): Tensor {
    this.#memory.downloadedBytes += bytesOf(value).byteLength
    return value
  }
}

/**
 * Returns the outputs of each call that later ones take, or that come out as well. Throws DeviceError where one takes what none before it
 * gives.
 */
function passedOn (calls: readonly ProgramCall[], also: readonly string[]): Array<Set<string>> {
  const passed = calls.map(() => new Set<string>())
  const givers = new Map<string, Set<string>>()
  for (const [index, { executable: { program }, inputs }] of calls.entries()) {
    for (const input of program.inputs) {
      const value = inputs[input.name]
      if (value === undefined || !('output' in value)) continue
      const giver = givers.get(value.output)
      if (giver === undefined) throw new DeviceError(`program ${program.name} takes ${value.output}, which no program before it gives`)
      giver.add(value.output)
    }
    for (const { name } of program.outputs) givers.set(name, passed[index]!)
  }
  for (const name of also) {
    const giver = givers.get(name)
    if (giver === undefined) throw new DeviceError(`${name} cannot come out of a chain: no program of it gives it`)
    giver.add(name)
  }
  return passed
}

function sizeBytes ({ dtype, shape }: Omit<Tensor, 'data'>): number {
  return elementCount(shape) * bytesPerElement[dtype]
}
