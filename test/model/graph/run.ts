import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node'
import type { Graph } from '../../../src/model/graph/graph.ts'
import { program, type Program } from '../../../src/model/graph/program.ts'
import type { DType, Tensor, TensorData } from '../../../src/tensor.ts'

/** Runs a program in onnxruntime on this thread. */
export async function runProgram (
  built: Program,
  inputs: Record<string, Tensor>,
  constants: Record<string, Tensor> = {}
): Promise<Record<string, Tensor>> {
  const { model, externalData } = built.toOnnx(constants)
  const session = await InferenceSession.create(model, { externalData, intraOpNumThreads: 1, logSeverityLevel: 3 })
  try {
    const feeds = built.inputs.filter(({ name }) => constants[name] === undefined).map(({ name }) => {
      const { dtype, data, shape } = inputs[name]!
      return [name, new OrtTensor(dtype, data as never, shape)] as const
    })
    const results = await session.run(Object.fromEntries(feeds))
    return Object.fromEntries(
      Object.entries(results).map(([name, { type, dims, data }]) => [name, { dtype: type as DType, shape: dims, data: data as TensorData }])
    )
  } finally {
    await session.release()
  }
}

/** Runs what computes a graph's outputs. */
export async function runGraph (graph: Graph, inputs: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  return await runProgram(program('test', graph), inputs)
}
