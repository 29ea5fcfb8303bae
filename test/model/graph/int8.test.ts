import { describe, expect, it } from 'vitest'
import { differentiate } from '../../../src/model/graph/differentiate.ts'
import { GraphError } from '../../../src/model/graph/errors.ts'
import { Graph } from '../../../src/model/graph/graph.ts'
import { int8Matmul, MAX_INT8_INPUT, quantizeColumns, type Int8Matrices, type Int8Matrix } from '../../../src/model/graph/operators/index.ts'
import { elementCount, float32, tensor, type Tensor } from '../../../src/tensor.ts'
import { pseudoRandom } from './derivatives.ts'
import { runGraph } from './run.ts'

function random (shape: readonly number[], seed: number): Tensor {
  const next = pseudoRandom(seed)
  return float32(shape, Array.from({ length: elementCount(shape) }, () => 2 * next() - 1))
}

/** The codes and scales of a matrix [in, out] and of its transpose, as the inputs of a product. */
async function kept (w: Tensor, steps: number): Promise<Record<string, Tensor>> {
  const graph = new Graph()
  const [rows, columns] = w.shape as [number, number]
  const transposed = float32([columns, rows], indices(rows * columns).map((i) => at(w, i % rows, Math.floor(i / rows))))
  const [a, b] = [['w', w.shape], ['t', transposed.shape]].map(([name, shape]) =>
    quantizeColumns(graph.input(name as string, 'float32', shape as number[]), steps)
  ) as [Int8Matrix, Int8Matrix]
  for (const [name, value] of Object.entries({ codes: a.codes, scales: a.scales, transposedCodes: b.codes, transposedScales: b.scales }))
    graph.output(name, value)
  return await runGraph(graph, { w, t: transposed })
}

function inputs (graph: Graph, { codes, scales, transposedCodes, transposedScales }: Record<string, Tensor>): Int8Matrices {
  return {
    matrix: { codes: graph.input('codes', 'int8', codes!.shape), scales: graph.input('scales', 'float32', scales!.shape) },
    transposed: {
      codes: graph.input('transposedCodes', 'int8', transposedCodes!.shape),
      scales: graph.input('transposedScales', 'float32', transposedScales!.shape)
    }
  }
}

async function product (x: Tensor, matrices: Record<string, Tensor>): Promise<Float32Array> {
  const graph = new Graph()
  graph.output('y', int8Matmul(graph.input('x', 'float32', ['rows', x.shape[1]!]), inputs(graph, matrices)))
  return (await runGraph(graph, { x, ...matrices })).y!.data as Float32Array
}

async function gradient (g: Tensor, matrices: Record<string, Tensor>): Promise<Float32Array> {
  const graph = new Graph()
  const x = graph.input('x', 'float32', ['rows', matrices.codes!.shape[0]!])
  const output = int8Matmul(x, inputs(graph, matrices))
  const [result] = differentiate(graph, [{ value: output, gradient: graph.input('g', 'float32', output.shape) }], [x])
  graph.output('gradient', result!)
  return (await runGraph(graph, { g, ...matrices })).gradient!.data as Float32Array
}

const at = ({ shape, data }: Tensor, row: number, column: number): number => Number(data[row * shape[1]! + column])
const indices = (size: number): number[] => Array.from({ length: size }, (_, i) => i)
const largest = (values: readonly number[]): number => Math.max(...values.map(Math.abs))
const size = (values: readonly number[]): number => values.reduce((sum, value) => sum + Math.abs(value), 0)

/** Numbers turned in runs of the greatest power of two that divides their count, of at most 64, as Hadamard's matrix is defined. */
function turned (values: readonly number[]): number[] {
  let run = 1
  while (run < 64 && values.length % (2 * run) === 0) run *= 2
  return values.map((_, i) => indices(run).reduce((sum, j) => sum + sign(i % run & j) * values[i - i % run + j]!, 0) / Math.sqrt(run))
}

/** -1 where an odd number of bits is set, of seven, and 1 elsewhere. */
function sign (bits: number): number {
  const halves = bits ^ bits >> 4
  const quarters = halves ^ halves >> 2
  return (quarters ^ quarters >> 1) % 2 === 0 ? 1 : -1
}

/**
 * Expects y [rows, out] to be x [rows, in] times w [in, out] but for half a step of each turned element: of a row's 127, of a column's
 * `steps`.
 */
function expectClose (y: Float32Array, x: Tensor, w: Tensor, steps: number): void {
  const [rows, inner, columns] = [x.shape[0]!, x.shape[1]!, w.shape[1]!]
  const rights = indices(columns).map((column) => turned(indices(inner).map((k) => at(w, k, column))))
  for (const row of indices(rows)) {
    const left = turned(indices(inner).map((k) => at(x, row, k)))
    const rowStep = largest(left) / 127
    for (const [column, right] of rights.entries()) {
      const exact = indices(inner).reduce((sum, k) => sum + at(x, row, k) * at(w, k, column), 0)
      const bound = rowStep / 2 * size(right) + largest(right) / steps / 2 * (size(left) + inner * rowStep / 2)
      expect(Math.abs(y[row * columns + column]! - exact)).toBeLessThanOrEqual(bound * 1.001 + 1e-30)
    }
  }
}

describe.each([127, 64])('a product in int8, of columns of %i steps', (steps) => {
  it.each([[5, 96, 7], [1, 33, 3], [3, 512, 40]] as const)('is within half a step of each turned element, %i x %i x %i', async (...sizes) => {
    const [rows, inner, columns] = sizes
    const [x, w] = [random([rows, inner], 3), random([inner, columns], 4)]
    const matrices = await kept(w, steps)
    expect(largest([...matrices.codes!.data as Int8Array])).toBe(steps)
    expectClose(await product(x, matrices), x, w, steps)
  })

  it('has a derivative that is within half a step of each element of the gradient and of the transposed matrix', async () => {
    const [g, w] = [random([4, 40], 5), random([96, 40], 6)]
    const transposed = float32([40, 96], indices(40 * 96).map((i) => at(w, i % 96, Math.floor(i / 96))))
    expectClose(await gradient(g, await kept(w, steps)), g, transposed, steps)
  })
})

describe('a row of a product in int8', () => {
  it('is the same beside a row ten thousand times as long as alone, and as close to the exact one', async () => {
    const [few, w] = [random([2, 64], 7), random([64, 9], 8)]
    const long = (random([1, 64], 9).data as Float32Array).map((value) => value * 1e4)
    const massive = float32([3, 64], [...few.data as Float32Array, ...long])
    const matrices = await kept(w, 127)
    const y = await product(massive, matrices)
    expect(y.slice(0, 18)).toEqual(await product(few, matrices))
    expectClose(y, massive, w, 127)
  })

  it('is zero where the row or the column is', async () => {
    const x = float32([3, 32], indices(96).map((i) => i < 32 || i >= 64 ? Math.sin(i) : 0))
    const w = float32([32, 4], indices(128).map((i) => i % 4 === 2 ? 0 : Math.cos(i)))
    const y = await product(x, await kept(w, 127))
    expect([...y].every(Number.isFinite)).toBe(true)
    expect([...y.slice(4, 8), y[2]!, y[10]!].every((value) => value === 0)).toBe(true)
    expectClose(y, x, w, 127)
  })

  it('keeps its elements beside one that is a hundred times as large: an eighth of its step is lost of each, as of its run', async () => {
    const x = random([1, 128], 13)
    x.data[77] = 100
    // The identity is exact in 8 bits, turned or not: the product is the row.
    const y = await product(x, await kept(float32([128, 128], indices(128 ** 2).map((i) => i % 129 === 0 ? 1 : 0)), 127))
    const step = 100 / 127
    const [lost, lostUnturned] = [
      size(indices(128).map((i) => y[i]! - at(x, 0, i))),
      size(indices(128).map((i) => Math.round(at(x, 0, i) / step) * step - at(x, 0, i)))
    ]
    expect(lost).toBeLessThan(lostUnturned / 4)
  })

  it('is as close for numbers far from one', async () => {
    for (const scale of [1e-20, 1e20]) {
      const [x, w] = [random([2, 48], 10), random([48, 5], 11)]
      const scaled = float32([2, 48], (x.data as Float32Array).map((value) => value * scale))
      expectClose(await product(scaled, await kept(w, 127)), scaled, w, 127)
    }
  })

  it('is not finite where one of its elements is not', async () => {
    const x = float32([2, 16], indices(32).map((i) => i === 3 ? Infinity : 1))
    const y = await product(x, await kept(random([16, 3], 12), 127))
    expect([...y.slice(0, 3)].some(Number.isFinite)).toBe(false)
    expect([...y.slice(3)].every(Number.isFinite)).toBe(true)
  })
})

describe('the sums of products in int8', () => {
  it.each([1, -1])('do not overflow for the longest rows, of %i', async (sign) => {
    // Each run of 8, turned, is ones.
    const x = Float32Array.from({ length: MAX_INT8_INPUT }, (_, i) => i % 8 === 0 ? sign * Math.sqrt(8) : 0)
    const y = await product(float32([1, MAX_INT8_INPUT], x), {
      codes: tensor('int8', [MAX_INT8_INPUT, 1], new Int8Array(MAX_INT8_INPUT).fill(127)),
      scales: float32([1], [1 / 127]),
      transposedCodes: tensor('int8', [1, MAX_INT8_INPUT], new Int8Array(MAX_INT8_INPUT)),
      transposedScales: float32([MAX_INT8_INPUT], new Float32Array(MAX_INT8_INPUT))
    })
    expect(Math.abs(y[0]! - sign * MAX_INT8_INPUT) / MAX_INT8_INPUT).toBeLessThan(1e-6)
  })

  it('are refused for longer ones, and for shapes that do not fit', () => {
    const graph = new Graph()
    const product = (rows: number, inner: number): unknown =>
      int8Matmul(graph.input(`x${rows}`, 'float32', ['rows', rows]), {
        matrix: { codes: graph.input(`c${inner}`, 'int8', [inner, 1]), scales: graph.input('s', 'float32', [1]) },
        transposed: { codes: graph.input(`t${inner}`, 'int8', [1, inner]), scales: graph.input(`u${inner}`, 'float32', [inner]) }
      })
    expect(() => product(MAX_INT8_INPUT + 1, MAX_INT8_INPUT + 1)).toThrow(GraphError)
    expect(() => product(24, 32)).toThrow(GraphError)
  })
})
