import { MidspanError } from '../../errors.ts'
import type { DType, Tensor } from '../../tensor.ts'
import type { Program } from '../graph/program.ts'

export const deviceKinds = ['cpu', 'webgpu', 'cuda'] as const
export type DeviceKind = typeof deviceKinds[number]

/**
 * The type that products with a block's frozen matrices are computed in. Everything else, and their results, are float32. int8 is the CPU's
 * alone.
 */
export const computeTypes = ['fp32', 'fp16', 'int8'] as const
export type ComputeType = typeof computeTypes[number]

/** A tensor that lives on a device: a handle. Its values reach the host only through `Device.download`. */
export interface DeviceTensor {
  readonly id: number
  readonly dtype: DType
  readonly shape: readonly number[]
}

export type AnyTensor = Tensor | DeviceTensor

/** Says whether a tensor lives on a device rather than in host memory. */
export function isDeviceTensor (value: AnyTensor): value is DeviceTensor {
  return 'id' in value
}

/** Thrown when a program does not compile or run, when a tensor is not on the device, and when the device is closed. */
export class DeviceError extends MidspanError {
  constructor (message: string, options: { cause?: unknown, next?: string } = {}) {
    super('E_DEVICE', message, options)
  }
}

/** Throws DeviceError for a device that has no products of this type. */
export function checkCompute (kind: DeviceKind, compute: ComputeType): void {
  if (compute === 'int8' && kind !== 'cpu')
    throw new DeviceError(`the device ${kind} has no int8 products`, { next: 'take the device cpu, or compute in fp32 or fp16' })
}

export interface CompileOptions {
  /**
   * Values for some of the program's inputs, fixed when it is compiled. onnxruntime may reorder such values for its products: decoding is
   * faster, and the device holds one more copy of them, which `DeviceMemory.heldBytes` counts.
   */
  constants?: Readonly<Record<string, AnyTensor>>
}

export interface RunOptions {
  /** Names of the outputs that stay on the device. The other outputs come back as host tensors. */
  keep?: 'all' | readonly string[]
  /**
   * Maps an output to an input whose device tensor takes the output's values, as KV caches need it. A CPU writes them in place; a GPU gives
   * the handle another buffer.
   */
  inPlace?: Readonly<Record<string, string>>
}

/** A program compiled for a device. */
export interface Executable {
  readonly program: Program
  /** Runs the program. Host tensors among the inputs are copied, and stay the caller's. Throws DeviceError when the run fails. */
  run: (inputs: Readonly<Record<string, AnyTensor>>, options?: RunOptions) => Promise<Record<string, AnyTensor>>
  close: () => Promise<void>
}

export interface SequenceOptions extends Pick<RunOptions, 'keep'> {
  /** Names of outputs that come out besides those of the last call. Where several calls have an output of the name, the last one counts. */
  also?: readonly string[]
}

/** Refers to an output of an earlier call in a sequence. Where several calls have an output of the name, the last one counts. */
export interface OutputRef {
  readonly output: string
}

/** A program with its inputs, as one step of a sequence. */
export interface ProgramCall {
  readonly executable: Executable
  readonly inputs: Readonly<Record<string, AnyTensor | OutputRef>>
  readonly inPlace?: RunOptions['inPlace']
}

/** A result that is still to be computed: the output of this name of the last of these calls. */
export interface Deferred {
  readonly calls: readonly ProgramCall[]
  readonly output: string
}

/** Says whether a result is still to be computed. */
export function isDeferred (value: AnyTensor | Deferred): value is Deferred {
  return 'calls' in value
}

/** Returns the calls that compute a value, none where it is computed, and the input by which the next call takes the value. */
export function continued (value: AnyTensor | Deferred): { calls: readonly ProgramCall[], input: AnyTensor | OutputRef } {
  return isDeferred(value) ? { calls: value.calls, input: { output: value.output } } : { calls: [], input: value }
}

export interface DeviceMemory {
  /** Bytes held by device tensors and by the constants of programs. */
  readonly heldBytes: number
  /** Bytes copied to and from the device since it was opened; with a GPU, across the bus. */
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

/** Runs programs and holds tensors. All work happens on a thread of the device's own, one run at a time, in the order of the calls. */
export interface Device {
  readonly kind: DeviceKind
  readonly compute: ComputeType
  memory: () => Promise<DeviceMemory>
  compile: (program: Program, options?: CompileOptions) => Promise<Executable>
  /**
   * Runs programs one after another in one message to the device's thread: a message takes longer than a small program. Returns the outputs
   * of the last call and those that `also` names. Throws DeviceError when a run fails.
   */
  runSequence: (calls: readonly ProgramCall[], options?: SequenceOptions) => Promise<Record<string, AnyTensor>>
  /** Copies a tensor to the device. With `given` the caller gives its memory up, and a device in the same memory need not copy it. */
  upload: (value: Tensor, options?: { given?: boolean }) => Promise<DeviceTensor>
  /** Makes a tensor of zeros without copying one from the host. The caller frees it. */
  zeros: (dtype: DType, shape: readonly number[]) => Promise<DeviceTensor>
  /**
   * Makes a tensor of random uint32 bits on the device's thread: the elements of these keystreams, one after another, or those of a
   * keystream under a fresh random key that nobody learns. The caller frees the tensor.
   */
  randomBits: (shape: readonly number[], keystreams?: readonly Keystream[]) => Promise<DeviceTensor>
  /** Copies a tensor to the host. The device tensor stays. */
  download: (value: DeviceTensor) => Promise<Tensor>
  /** Copies several tensors to the host, in one message. */
  downloadAll: (values: readonly DeviceTensor[]) => Promise<Tensor[]>
  /** Frees device tensors, once the runs already asked for have ended. Throws DeviceError for a tensor that is not on the device. */
  free: (...values: readonly DeviceTensor[]) => void
  close: () => Promise<void>
}
