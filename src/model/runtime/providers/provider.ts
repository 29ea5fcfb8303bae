import type * as ort from 'onnxruntime-node'
import type { DType, Tensor } from '../../../tensor.ts'
import type { OnnxModel } from '../../graph/onnx.ts'
import type { TensorSpec } from '../../graph/program.ts'

/** How a worker's sessions run and where its tensors live: all in which one kind of device differs from another. */
export interface Provider {
  /** Of the session of this program with these outputs. */
  sessionOptions: (
    model: OnnxModel,
    outputs: ReadonlyArray<Pick<TensorSpec, 'name' | 'dtype'>>
  ) => Pick<ort.InferenceSession.SessionOptions, 'executionProviders' | 'preferredOutputLocation'>
  /**
   * Runs a session. An output that comes with a tensor is written into it, or takes its place: the result is what has the values, the other
   * is gone.
   */
  run: (
    session: ort.InferenceSession,
    feeds: Readonly<Record<string, ort.Tensor>>,
    fetches: Readonly<Record<string, ort.Tensor | null>>
  ) => Promise<Record<string, ort.Tensor>>
  /** Brings values to where tensors live; may keep the buffer that they come in. */
  store: (value: Tensor) => Promise<ort.Tensor>
  zeros: (dtype: DType, shape: readonly number[]) => Promise<ort.Tensor>
  /** The values of a tensor that stays. */
  read: (value: ort.Tensor) => Promise<Tensor>
  /** The values of a tensor that nobody else has, and its end: its buffer may be handed out. */
  take: (value: ort.Tensor) => Promise<Tensor>
  /** Gives a tensor's memory back. */
  discard: (value: ort.Tensor) => void
}
