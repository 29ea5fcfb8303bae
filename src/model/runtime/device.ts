import { MidspanError } from '../../errors.ts'
import type { DType, Tensor } from '../../tensor.ts'
import type { Program } from '../graph/program.ts'

export type DeviceKind = 'cpu' | 'webgpu' | 'cuda'

/** What products with a block's frozen matrices are computed in. Everything else, and the results, are float32. */
export const computeTypes = ['fp32', 'fp16'] as const
export type ComputeType = typeof computeTypes[number]

/** A tensor that lives on a device: a handle. Its values reach the host only through `Device.download`. */
export interface DeviceTensor {
  readonly id: number
  readonly dtype: DType
  readonly shape: readonly number[]
}

export type AnyTensor = Tensor | DeviceTensor

/** Whether a tensor lives on a device rather than in host memory. */
export function isDeviceTensor (value: AnyTensor): value is DeviceTensor {
  return 'id' in value
}

/**
 * Thrown when a device cannot do what was asked: a program that does not compile or run, a tensor that is not there, a device that is
 * closed.
 */
export class DeviceError extends MidspanError {
  constructor (message: string, options: { cause?: unknown, next?: string } = {}) {
    super('E_DEVICE', message, options)
  }
}

export interface CompileOptions {
  /**
   * Values for some of the program's inputs, fixed at compile time: onnxruntime may pre-pack them (faster decoding, one more copy, which
   * counts as held).
   */
  constants?: Readonly<Record<string, AnyTensor>>
}

export interface RunOptions {
  /** Outputs that stay on the device. The others come back as host tensors. */
  keep?: 'all' | readonly string[]
  /**
   * output name → input name: that input's device tensor has the output's values from then on (KV caches). A CPU writes them in place; a
   * GPU gives the handle another buffer.
   */
  inPlace?: Readonly<Record<string, string>>
}

/** A program compiled for a device. */
export interface Executable {
  readonly program: Program
  /** Host tensors given as inputs are copied; the caller keeps them. Throws DeviceError when the run fails. */
  run: (inputs: Readonly<Record<string, AnyTensor>>, options?: RunOptions) => Promise<Record<string, AnyTensor>>
  close: () => Promise<void>
}

export interface SequenceOptions extends Pick<RunOptions, 'keep'> {
  /** Outputs of other calls than the last that come out as well, of the last that has one of the name. */
  also?: readonly string[]
}

/** An input of a call: the output of this name of the last call before it that has one. */
export interface OutputRef {
  readonly output: string
}

/** One program of a chain. */
export interface ProgramCall {
  readonly executable: Executable
  readonly inputs: Readonly<Record<string, AnyTensor | OutputRef>>
  readonly inPlace?: RunOptions['inPlace']
}

/** A result that is still to be computed: what the last of these calls gives under this name. */
export interface Deferred {
  readonly calls: readonly ProgramCall[]
  readonly output: string
}

/** Whether a result is still to be computed. */
export function isDeferred (value: AnyTensor | Deferred): value is Deferred {
  return 'calls' in value
}

/** The calls that compute a value, and how the call after them names it. */
export function continued (value: AnyTensor | Deferred): { calls: readonly ProgramCall[], input: AnyTensor | OutputRef } {
  return isDeferred(value) ? { calls: value.calls, input: { output: value.output } } : { calls: [], input: value }
}

export interface DeviceMemory {
  /** Bytes held by device tensors and by the constants of programs. */
  readonly heldBytes: number
  /** Bytes copied in and out since the start: between the caller's memory and the device's, where the device is a GPU across the bus. */
  readonly uploadedBytes: number
  readonly downloadedBytes: number
}

/** Elements of an AES-256-CTR keystream, uint32 each. */
export interface Keystream {
  /** 32 bytes. */
  readonly key: Uint8Array
  /** The first element; 0 when left out. */
  readonly from?: number
  readonly elements: number
}

/** Where programs run. All of its work happens off the thread that calls it, one run at a time, in the order of the calls. */
export interface Device {
  readonly kind: DeviceKind
  readonly compute: ComputeType
  memory: () => Promise<DeviceMemory>
  compile: (program: Program, options?: CompileOptions) => Promise<Executable>
  /**
   * Runs programs one after another without a word in between, which for small ones takes longer than they do. Resolves with the
   * outputs of the last, and with those of these names that come last of the others; what the others pass on besides is forgotten.
   * Throws DeviceError when a run fails.
   */
  runSequence: (calls: readonly ProgramCall[], options?: SequenceOptions) => Promise<Record<string, AnyTensor>>
  /** Copies a tensor to the device. `given`: the caller gives its memory up, so that a device in the same memory need not copy it. */
  upload: (value: Tensor, options?: { given?: boolean }) => Promise<DeviceTensor>
  /** Makes a zero-filled tensor without copying one from the host. */
  zeros: (dtype: DType, shape: readonly number[]) => Promise<DeviceTensor>
  /**
   * Random uint32 bits, made on the device's thread: elements of these keystreams, one after another, or of that of a fresh random key that
   * nobody learns.
   */
  randomBits: (shape: readonly number[], keystreams?: readonly Keystream[]) => Promise<DeviceTensor>
  download: (value: DeviceTensor) => Promise<Tensor>
  /** The same of many, in one message. */
  downloadAll: (values: readonly DeviceTensor[]) => Promise<Tensor[]>
  /** Frees device tensors, after the runs already asked for. Throws DeviceError for one that is not there, such as one already freed. */
  free: (...values: readonly DeviceTensor[]) => void
  close: () => Promise<void>
}
