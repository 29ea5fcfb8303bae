import type { WeightSpec } from '../families/weights.ts'
import { Graph, type Value, type ValueType } from '../graph/graph.ts'
import {
  cast,
  dequantize,
  gatherRows,
  int8Matmul,
  matmul,
  quantize,
  quantizeColumns,
  quantizedMatmul,
  quantizedTypes,
  transpose,
  type Quantization
} from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'

export const weightFormats = ['fp32', 'fp16', 'int8', 'int4'] as const

/**
 * What a device keeps frozen matrices as. Each party chooses for its own part of the model: a model in another format than fp32 is another
 * model, close to it. Everything else stays float32: what is trained, norms, biases, and all arithmetic of training.
 */
export type WeightFormat = typeof weightFormats[number]

/**
 * What a matrix is kept as: a format that was chosen for it, or what int8 products take, which are codes of 8 bits with a scale a column,
 * of the matrix as it is multiplied by and of its transpose, for the derivative.
 */
export type KeptFormat = WeightFormat | 'int8-products'

/** Elements with one scale. Larger blocks would save at most 0.75 bits an element, and cost exactness. */
const BLOCK_SIZE = 32

/** The codes themselves: 9 bits an element with their scales, or 5. */
const quantizations: Partial<Record<KeptFormat, Quantization>> = {
  int8: { bits: 8, blockSize: BLOCK_SIZE },
  int4: { bits: 4, blockSize: BLOCK_SIZE }
}

/** Says whether a matrix is kept in blocks of codes with a scale each. */
export function isQuantized (format: KeptFormat): boolean {
  return quantizations[format] !== undefined
}

/** Returns the format of the embedding and the head, which suffer most from few bits: never less than 8 of them. */
export function endFormat (format: WeightFormat): WeightFormat {
  return format === 'int4' ? 'int8' : format
}

/** Returns the tensors that a weight is kept as, by their names. Only matrices have formats. */
export function keptTensors ({ name, shape }: WeightSpec, format: KeptFormat): Map<string, ValueType> {
  const quantization = quantizations[format]
  if (shape.length !== 2 || format === 'fp32') return new Map([[name, { dtype: 'float32', shape }]])
  if (format === 'int8-products') {
    const [outputSize, inputSize] = matrixShape(shape)
    return new Map([
      [`${name}.codes`, { dtype: 'int8', shape: [inputSize, outputSize] }],
      [`${name}.scales`, { dtype: 'float32', shape: [outputSize] }],
      [`${name}.transposedCodes`, { dtype: 'int8', shape: [outputSize, inputSize] }],
      [`${name}.transposedScales`, { dtype: 'float32', shape: [inputSize] }]
    ])
  }
  if (quantization === undefined) return new Map([[name, { dtype: 'float16', shape }]])
  const { codes, scales } = quantizedTypes(matrixShape(shape), quantization)
  return new Map([[`${name}.codes`, codes], [`${name}.scales`, scales]])
}

/** Input `matrix`, float32; outputs as `keptTensors` names those of `weight`. `steps` are those of int8 products (columnSteps). */
export function formatProgram ({ shape }: Pick<WeightSpec, 'shape'>, format: KeptFormat, steps?: number): Program {
  const graph = new Graph()
  const kept = keptParts(graph.input('matrix', 'float32', shape), format, steps)
  for (const [name, value] of Object.entries(kept)) graph.output(name, value)
  return program(`weight.${format}`, graph)
}

function keptParts (matrix: Value, format: KeptFormat, steps?: number): Record<string, Value> {
  if (format === 'int8-products') {
    const [forward, backward] = [quantizeColumns(transpose(matrix, [1, 0]), steps!), quantizeColumns(matrix, steps!)]
    return prefixed({ ...forward, transposedCodes: backward.codes, transposedScales: backward.scales })
  }
  const quantization = quantizations[format]
  return quantization === undefined ? { weight: cast(matrix, 'float16') } : prefixed(quantize(matrix, quantization))
}

/**
 * What a product may round its rows to: nothing; float16, in which it is then computed, with a matrix kept as that; 8-bit blocks, with
 * quantised codes as they are.
 */
export type RowType = 'float32' | 'float16' | 'int8'

/**
 * x [rows, in] times the transpose of a weight [out, in], whose kept tensors become inputs of the graph: [rows, out]. Of quantised codes as
 * they are where `rowType` is one that such products know; else of the matrix that they stand for: measured on CPU with codes that are not
 * fixed (512 x 2048 by 2048 x 5632), dequantising it beside takes 1.2 to 1.4 times as long as a float32 product, MatMulNBits 1.7 times. A
 * matrix kept for int8 products has its rows rounded in any case.
 */
export function weightProduct (x: Value, spec: WeightSpec, format: KeptFormat, rowType?: RowType): Value {
  const [kept, scales, transposedCodes, transposedScales] = keptInputs(x.graph, spec, format)
  if (format === 'int8-products')
    return int8Matmul(x, {
      matrix: { codes: kept!, scales: scales! },
      transposed: { codes: transposedCodes!, scales: transposedScales! }
    })
  const quantization = quantizations[format]
  if (quantization === undefined) {
    const dtype = kept!.dtype === 'float16' && rowType === 'float16' ? 'float16' : 'float32'
    return cast(matmul(cast(x, dtype), cast(kept!, dtype), { transposeB: true }), 'float32')
  }
  const [matrix, attributes] = [{ codes: kept!, scales: scales! }, { ...quantization, inputSize: spec.shape[1]! }]
  if (rowType === undefined || rowType === 'float16') return matmul(x, dequantize(matrix, attributes), { transposeB: true })
  return quantizedMatmul(x, matrix, { ...attributes, activations: rowType })
}

/** Returns the rows of a weight at `indices` [n], as float32: [n, in]. */
export function weightRows (indices: Value, spec: WeightSpec, format: WeightFormat): Value {
  const [kept, scales] = keptInputs(indices.graph, spec, format)
  const quantization = quantizations[format]
  if (quantization === undefined) return cast(gatherRows(kept!, indices), 'float32')
  return dequantize({ codes: gatherRows(kept!, indices), scales: gatherRows(scales!, indices) }, {
    ...quantization,
    inputSize: spec.shape[1]!
  })
}

function keptInputs (graph: Graph, spec: WeightSpec, format: KeptFormat): Value[] {
  return [...keptTensors(spec, format)].map(([name, { dtype, shape }]) => graph.input(name, dtype, shape))
}

function prefixed (parts: object): Record<string, Value> {
  return Object.fromEntries(Object.entries(parts).map(([name, value]) => [`weight.${name}`, value as Value]))
}

function matrixShape (shape: readonly number[]): [number, number] {
  return [shape[0]!, shape[1]!]
}
