import { describe, expect, it } from 'vitest'
import { GraphError } from '../../../src/model/graph/errors.ts'
import { Graph } from '../../../src/model/graph/graph.ts'
import { dequantize, quantize, quantizedMatmul, quantizedTypes, type Quantization } from '../../../src/model/graph/operators/index.ts'
import { program } from '../../../src/model/graph/program.ts'
import { elementCount, float32, type Tensor } from '../../../src/tensor.ts'
import { relativeError } from '../../helpers/golden.ts'
import { plainly } from '../../helpers/quantized.ts'
import { expectDerivative, pseudoRandom } from './derivatives.ts'
import { runGraph, runProgram } from './run.ts'

const formats: ReadonlyArray<[string, Quantization]> = ([4, 8] as const).flatMap((bits) =>
  [16, 32, 64, 128].map((blockSize) => [`${bits}-bit blocks of ${blockSize}`, { bits, blockSize }] as [string, Quantization])
)
/** Rows, with and without a last block that is not full, and less than one block. */
const shapes = [[3, 256], [5, 200], [1, 7]] as const

function random (shape: readonly number[], seed = 5): Tensor {
  const next = pseudoRandom(seed)
  return float32(shape, Array.from({ length: elementCount(shape) }, () => 2 * next() - 1))
}

async function quantized (w: Tensor, quantization: Quantization): Promise<{ codes: Tensor, scales: Tensor }> {
  const graph = new Graph()
  const { codes, scales } = quantize(graph.input('w', 'float32', w.shape), quantization)
  graph.output('codes', codes)
  graph.output('scales', scales)
  return await runGraph(graph, { w }) as { codes: Tensor, scales: Tensor }
}

describe.each(formats)('%s', (_, quantization) => {
  const { bits, blockSize } = quantization

  it.each(shapes)('are within a step of a matrix [%i, %i]', async (...shape) => {
    const w = random(shape)
    const matrix = await quantized(w, quantization)
    expect(matrix.codes.shape).toEqual(quantizedTypes(shape, quantization).codes.shape)
    const values = plainly(matrix, shape, quantization)
    const steps = values.map((value, at) => {
      const scale = Number(
        matrix.scales.data[Math.floor(at / shape[1]) * Math.ceil(shape[1] / blockSize) + Math.floor(at % shape[1] / blockSize)]
      )
      return Math.abs(value - Number(w.data[at])) / Math.abs(scale)
    })
    expect(Math.max(...steps)).toBeLessThanOrEqual(1.0001)
    // Only what is as large as the block's extreme, with the other sign, is cut off.
    expect(steps.filter((step) => step > 0.5001).length).toBeLessThanOrEqual(bits === 4 ? values.length / 10 : values.length / 50)
  })

  it.each(shapes)('are dequantised as the layout says, [%i, %i]', async (...shape) => {
    const matrix = await quantized(random(shape), quantization)
    const graph = new Graph()
    graph.output(
      'w',
      dequantize({
        codes: graph.input('codes', 'uint8', matrix.codes.shape),
        scales: graph.input('scales', 'float32', matrix.scales.shape)
      }, { ...quantization, inputSize: shape[1] })
    )
    const { w } = await runGraph(graph, matrix)
    expect(w!.shape).toEqual(shape)
    expect(w!.data).toEqual(plainly(matrix, shape, quantization))
  })

  // Where onnxruntime has no kernel that rounds x, it is not rounded.
  it.each(
    shapes.flatMap((shape) =>
      (['float32', 'int8'] as const).flatMap((activations) => [false, true].map((fixed) => [...shape, activations, fixed] as const))
    )
  )(
    'multiply as the dequantised matrix does, [%i, %i] with %s, fixed: %s',
    async (outputSize, inputSize, activations, fixed) => {
      const matrix = await quantized(random([outputSize, inputSize]), quantization)
      const x = random([4, inputSize], 9)
      const graph = new Graph()
      const operands = {
        codes: graph.input('codes', 'uint8', matrix.codes.shape),
        scales: graph.input('scales', 'float32', matrix.scales.shape)
      }
      graph.output(
        'y',
        quantizedMatmul(graph.input('x', 'float32', ['rows', inputSize]), operands, { ...quantization, inputSize, activations })
      )
      const { y } = await runProgram(program('product', graph), { x, ...matrix }, fixed ? { ...matrix } : {})
      const w = plainly(matrix, [outputSize, inputSize], quantization)
      const wanted = Float32Array.from({ length: 4 * outputSize }, (_, at) => {
        const [row, column] = [Math.floor(at / outputSize), at % outputSize]
        return Array.from({ length: inputSize }, (_, k) => Number(x.data[row * inputSize + k]) * w[column * inputSize + k]!).reduce(
          (sum, term) => sum + term,
          0
        )
      })
      expect(relativeError(y!.data as Float32Array, wanted)).toBeLessThan(activations === 'float32' ? 2e-6 : 1e-2)
    })
})

describe('quantize', () => {
  it('keeps zeros, and the value farthest from zero of each block', async () => {
    const w = float32([1, 64], [...new Array<number>(32).fill(0), ...Array.from({ length: 32 }, (_, i) => i === 3 ? 0.7 : i / 100)])
    for (const bits of [4, 8] as const) {
      const values = plainly(await quantized(w, { bits, blockSize: 32 }), [1, 64], { bits, blockSize: 32 })
      expect(values.slice(0, 33).every((value) => value === 0)).toBe(true)
      expect(values[35]).toBeCloseTo(0.7, 6)
    }
  })
})

describe('quantizedMatmul', () => {
  it.each([4, 8] as const)('has the derivative that finite differences of %i-bit products give', async (bits) => {
    const quantization = { bits, blockSize: 16 }
    const matrix = await quantized(random([5, 24]), quantization)
    await expectDerivative({
      shapes: [['rows', 24]],
      sizes: { rows: 3 },
      extra: (graph) => ({
        codes: { value: graph.input('codes', 'uint8', matrix.codes.shape), data: matrix.codes },
        scales: { value: graph.input('scales', 'float32', matrix.scales.shape), data: matrix.scales }
      }),
      build: ([x], { codes, scales }) =>
        quantizedMatmul(x!, { codes: codes!, scales: scales! }, { ...quantization, inputSize: 24, activations: 'float32' })
    })
  })

  it('refuses shapes that do not belong together', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows', 24])
    const matrix = { codes: graph.input('codes', 'uint8', [5, 2, 8]), scales: graph.input('scales', 'float32', [5, 2]) }
    const attributes = { bits: 4, blockSize: 16, activations: 'float32' } as const
    expect(() => quantizedMatmul(x, matrix, { ...attributes, inputSize: 16 })).toThrow(GraphError)
    expect(() => quantizedMatmul(x, matrix, { ...attributes, inputSize: 24, bits: 8 })).toThrow(GraphError)
    expect(() => dequantize(matrix, { ...attributes, inputSize: 40 })).toThrow(GraphError)
  })
})
