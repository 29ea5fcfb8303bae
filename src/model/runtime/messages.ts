// What a device and its worker thread say to each other.
import type { DType, Tensor } from '../../tensor.ts'
import type { OnnxModel } from '../graph/onnx.ts'
import type { TensorSpec } from '../graph/program.ts'
import type { DeviceKind, Keystream, OutputRef } from './device.ts'

/** How the worker opens its sessions. */
export interface WorkerOptions {
  readonly kind: DeviceKind
  /** Threads within one operator; onnxruntime's default, the number of physical cores, when left out. */
  readonly threads?: number
  /** Directory of the sessions' traces. */
  readonly profile?: string
}

/** An operand of a run: a tensor the worker holds, by its id; values that come with the message; or an output of a run before. */
export type Operand = number | Tensor | OutputRef

export interface Run {
  readonly session: number
  readonly inputs: Readonly<Record<string, Operand>>
  readonly outputs: ReadonlyArray<{ readonly name: string, readonly inPlace: number | undefined }>
}

/** An output that comes out of a chain: to be kept by the worker, or as values. */
export interface Outcome {
  readonly name: string
  readonly keep: boolean
}

export type Request =
  /** Comes first. */
  | { readonly kind: 'open' }
  /** `constants` are tensors of the worker's whose values stand for external data. */
  | {
    readonly kind: 'compile',
    readonly session: number,
    readonly name: string,
    readonly model: OnnxModel,
    readonly constants: Readonly<Record<string, number>>,
    readonly outputs: ReadonlyArray<Pick<TensorSpec, 'name' | 'dtype'>>
  }
  /** One after another; the answer holds these outputs. */
  | { readonly kind: 'run', readonly runs: readonly Run[], readonly outputs: readonly Outcome[] }
  | { readonly kind: 'upload', readonly value: Tensor }
  | { readonly kind: 'zeros', readonly dtype: DType, readonly shape: readonly number[] }
  | { readonly kind: 'random', readonly shape: readonly number[], readonly keystreams: readonly Keystream[] | undefined }
  | { readonly kind: 'download', readonly ids: readonly number[] }
  | { readonly kind: 'free', readonly ids: readonly number[] }
  | { readonly kind: 'release', readonly session: number }
  /** Writes the sessions' traces. */
  | { readonly kind: 'endProfiling' }

/** A tensor that stays with the worker. */
export interface Held {
  readonly id: number
  readonly dtype: DType
  readonly shape: readonly number[]
}

/** What the worker answers, in the order of the requests; `free` has no answer. */
export type Answer =
  | { readonly ok: true, readonly held: readonly Held[], readonly values: readonly Tensor[] }
  | { readonly ok: false, readonly message: string }
