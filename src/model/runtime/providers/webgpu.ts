import * as ort from 'onnxruntime-node'
import { float32, tensor, type DType, type Tensor } from '../../../tensor.ts'
import { ANY_SHAPE, Graph } from '../../graph/graph.ts'
import type { OnnxModel } from '../../graph/onnx.ts'
import { applyOne, onnx, type Operator } from '../../graph/operator.ts'
import { cast } from '../../graph/operators/index.ts'
import { program, type Program, type TensorSpec } from '../../graph/program.ts'
import { hostTensor, valuesOf } from './host.ts'
import type { Provider } from './provider.ts'

/** onnxruntime's log level above its errors. */
const SILENT = 4

type Location = ort.Tensor.DataLocation

/** onnxruntime-node 1.30 has no tensor of this element type on a GPU: such outputs, which only the wire has, stay in host memory. */
const HOST_ONLY: DType = 'int8'

/**
 * Tensors in GPU buffers. onnxruntime-node 1.30 moves values between host and GPU as inputs and outputs of runs only: `getData` on a tensor
 * on the GPU aborts the process, and one given as an output to write into is left as it was.
 */
export class WebGpuProvider implements Provider {
  readonly #sessions = new Map<string, Promise<ort.InferenceSession>>()
  readonly #hasFloat16: boolean

  private constructor (hasFloat16: boolean) {
    this.#hasFloat16 = hasFloat16
  }

  /** Throws what onnxruntime throws where there is no adapter. */
  static async open (): Promise<WebGpuProvider> {
    return new WebGpuProvider(await computesFloat16())
  }

  sessionOptions (
    { float16Nodes }: OnnxModel,
    outputs: ReadonlyArray<Pick<TensorSpec, 'name' | 'dtype'>>
  ): ReturnType<Provider['sessionOptions']> {
    return {
      executionProviders: [{
        name: 'webgpu',
        ...(this.#hasFloat16 || float16Nodes.length === 0 ? {} : { forceCpuNodeNames: float16Nodes.flatMap(nameAndFused) })
      }],
      preferredOutputLocation: Object.fromEntries(outputs.map(({ name, dtype }) => [name, homeOf(dtype)]))
    }
  }

  async run (
    session: ort.InferenceSession,
    feeds: Readonly<Record<string, ort.Tensor>>,
    fetches: Readonly<Record<string, ort.Tensor | null>>
  ): Promise<Record<string, ort.Tensor>> {
    // All outputs, or none by name: asked for some of those that are on a GPU, onnxruntime-node 1.30 fails with "Output count mismatch".
    const results = { ...await session.run(feeds) }
    for (const [name, value] of Object.entries(results)) {
      const into = fetches[name]
      if (into !== undefined && into !== null) this.discard(into)
      if (into !== undefined) continue
      this.discard(value)
      Reflect.deleteProperty(results, name)
    }
    return results
  }

  async store (value: Tensor): Promise<ort.Tensor> {
    if (homeOf(value.dtype) === 'cpu') return hostTensor(value)
    return await this.#copy(hostTensor(value), value.dtype, 'gpu-buffer')
  }

  async zeros (dtype: DType, shape: readonly number[]): Promise<ort.Tensor> {
    if (homeOf(dtype) === 'cpu') throw new TypeError(`WebGPU has no ${dtype} tensors`)
    const session = await this.#session(`zeros ${dtype}`, 'gpu-buffer', () => zerosProgram(dtype))
    return (await session.run({ shape: hostTensor(tensor('int64', [shape.length], BigInt64Array.from(shape, BigInt))) })).zeros!
  }

  async read (value: ort.Tensor): Promise<Tensor> {
    if (value.location === 'cpu') return valuesOf(value)
    return valuesOf(await this.#copy(value, value.type as DType, 'cpu'))
  }

  async take (value: ort.Tensor): Promise<Tensor> {
    try {
      return await this.read(value)
    } finally {
      this.discard(value)
    }
  }

  discard (value: ort.Tensor): void {
    if (value.location !== 'cpu') value.dispose()
  }

  async #copy (value: ort.Tensor, dtype: DType, to: Location): Promise<ort.Tensor> {
    return (await (await this.#copySession(dtype, to)).run({ value })).copy!
  }

  async #copySession (dtype: DType, to: Location): Promise<ort.InferenceSession> {
    return await this.#session(`copy ${dtype}`, to, () => copyProgram(dtype))
  }

  async #session (name: string, to: Location, build: () => Program): Promise<ort.InferenceSession> {
    const key = `${name} to ${to}`
    const known = this.#sessions.get(key) ?? this.#create(build(), to)
    this.#sessions.set(key, known)
    return await known
  }

  async #create ({ toOnnx, outputs }: Program, to: Location): Promise<ort.InferenceSession> {
    const onnx = toOnnx()
    return await ort.InferenceSession.create(onnx.model, {
      ...this.sessionOptions(onnx, outputs),
      preferredOutputLocation: to,
      logSeverityLevel: 3
    })
  }
}

/** Returns whether the GPU has 16-bit floating-point arithmetic. Throws where there is no GPU. */
async function computesFloat16 (): Promise<boolean> {
  const graph = new Graph()
  graph.output('y', cast(graph.input('x', 'float32', ['n']), 'float16'))
  const session = await ort.InferenceSession.create(program('float16', graph).toOnnx().model, {
    executionProviders: ['webgpu'],
    logSeverityLevel: SILENT
  })
  try {
    await session.run({ x: hostTensor(float32([1], [1])) })
    return true
  } catch {
    return false
  } finally {
    await session.release()
  }
}

/** Returns a node's name, and the one it has once onnxruntime 1.30 has made one of a product and a sum. */
function nameAndFused (name: string): string[] {
  return [name, `${name}/MatMulAddFusion`]
}

function homeOf (dtype: DType): Location {
  return dtype === HOST_ONLY ? 'cpu' : 'gpu-buffer'
}

function copyProgram (dtype: DType): Program {
  const graph = new Graph()
  graph.output('copy', graph.input('value', dtype, undefined))
  return program('copy', graph)
}

/** Not ConstantOfShape, for which onnxruntime has no WebGPU kernel: its zeros would come from the host. */
const filled: Operator<null> = {
  name: 'filled',
  infer: ([value]) => [{ dtype: value!.dtype, shape: ANY_SHAPE }],
  emit: onnx('Expand')
}

function zerosProgram (dtype: DType): Program {
  const graph = new Graph()
  graph.output('zeros', applyOne(filled, [graph.scalar(0, dtype), graph.input('shape', 'int64', ['rank'])], null))
  return program('zeros', graph)
}
