import * as ort from 'onnxruntime-node'
import { bytesPerElement, elementCount, fromBytes, type DType, type Tensor, type TensorData } from '../../../tensor.ts'
import type { Provider } from './provider.ts'

/** Outputs up to this size are copied out of onnxruntime's arena rather than moved: a small view would pin its whole chunk. */
const COPY_UP_TO_BYTES = 4096

/**
 * Tensors in host memory. CUDA's sessions copy them to the GPU and back in each run: onnxruntime-node keeps tensors on a GPU for WebGPU
 * alone.
 */
export function hostProvider (kind: 'cpu' | 'cuda'): Provider {
  return {
    sessionOptions: () => ({ executionProviders: [kind] }),
    async run (session, feeds, fetches) {
      const results = await session.run(feeds, fetches)
      return Object.fromEntries(Object.entries(fetches).map(([name, into]) => [name, into ?? results[name]!]))
    },
    store: async (value) => hostTensor(value),
    async zeros (dtype, shape) {
      return hostTensor(fromBytes(dtype, shape, new Uint8Array(elementCount(shape) * bytesPerElement[dtype])))
    },
    async read (value) {
      const { dtype, shape, data } = valuesOf(value)
      return { dtype, shape, data: data.slice() }
    },
    async take (value) {
      const { dtype, shape, data } = valuesOf(value)
      if (data.byteLength > COPY_UP_TO_BYTES) return { dtype, shape, data }
      const copy = data.slice()
      free(value)
      return { dtype, shape, data: copy }
    },
    discard: free
  }
}

/**
 * Detaches a tensor's buffer: its memory is given back at once rather than when the garbage collector comes by, which does not see how
 * large it is.
 */
function free (value: ort.Tensor): void {
  (valuesOf(value).data.buffer as ArrayBuffer).transfer(0)
}

/** Returns values as onnxruntime takes them, sharing their buffer. */
export function hostTensor ({ dtype, shape, data }: Tensor): ort.Tensor {
  return new ort.Tensor(dtype, data, shape)
}

/** Returns the values of a tensor in host memory, sharing its buffer. */
export function valuesOf ({ type, dims, data }: ort.Tensor): Tensor {
  return { dtype: type as DType, shape: dims, data: data as TensorData }
}
