import { describe, expect, it } from 'vitest'
import { GraphError } from '../../../src/model/graph/errors.ts'
import { Graph } from '../../../src/model/graph/graph.ts'
import * as ops from '../../../src/model/graph/operators/index.ts'
import { program } from '../../../src/model/graph/program.ts'
import { float32, int32, tensor } from '../../../src/tensor.ts'
import { pseudoRandom } from './derivatives.ts'
import { runGraph, runProgram } from './run.ts'

const random = pseudoRandom(3)
const uniform = (shape: readonly number[]) => float32(shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random() - 0.5))

describe('program', () => {
  it('has only the inputs that its outputs need', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows', 4])
    ops.neg(graph.input('unused', 'float32', [4]))
    graph.output('y', ops.exp(x))
    const built = program('p', graph)
    expect(built.inputs).toEqual([{ name: 'x', dtype: 'float32', shape: ['rows', 4] }])
    expect(built.outputs).toEqual([{ name: 'y', dtype: 'float32', shape: ['rows', 4] }])
  })

  it('takes an input for its symbolic size alone', async () => {
    const graph = new Graph()
    graph.input('x', 'float32', ['rows', 4])
    graph.output('y', ops.range(graph, 'rows'))
    const built = program('p', graph)
    expect(built.inputs.map(({ name }) => name)).toEqual(['x'])
    const { y } = await runProgram(built, { x: uniform([3, 4]) })
    expect(y!.data).toEqual(BigInt64Array.of(0n, 1n, 2n))
  })

  it('may put out an input, a constant, and one value under two names', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [1])
    const y = ops.neg(x)
    for (const [name, value] of Object.entries({ x2: x, two: graph.scalar(2), y, again: y })) graph.output(name, value)
    const results = await runGraph(graph, { x: float32([1], [3]) })
    expect(Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data[0]]))).toEqual({
      x2: 3,
      two: 2,
      y: -3,
      again: -3
    })
  })

  it('runs one elementwise program on tensors of any shape', async () => {
    const graph = new Graph()
    const p = graph.input('p', 'float32', undefined)
    const g = graph.input('g', 'float32', undefined)
    const norm = ops.sqrt(ops.reduceSum(ops.mul(g, g)))
    graph.output('p2', ops.sub(p, ops.mul(ops.div(g, norm), graph.input('rate', 'float32', []))))
    expect(program('p', graph).outputs[0]!.shape).toBeUndefined()
    for (const shape of [[2], [1, 2], []]) {
      const size = shape.reduce((a, b) => a * b, 1)
      const { p2 } = await runGraph(graph, {
        p: float32(shape, new Array(size).fill(1)),
        g: float32(shape, new Array(size).fill(3)),
        rate: float32([], [2])
      })
      expect(p2!.shape).toEqual(shape)
      expect(p2!.data[0]).toBeCloseTo(1 - 2 / Math.sqrt(size))
    }
  })

  it('fixes inputs as constants, large ones outside the file', async () => {
    const graph = new Graph()
    const [x, w, b] = [graph.input('x', 'float32', ['rows', 32]), graph.input('w', 'float32', [16, 32]), graph.input('b', 'float32', [16])]
    graph.output('y', ops.add(ops.matmul(x, w, { transposeB: true }), b))
    const built = program('p', graph)
    const inputs = { x: uniform([2, 32]), w: uniform([16, 32]), b: uniform([16]) }
    const { externalData } = built.toOnnx({ w: inputs.w, b: inputs.b })
    expect(externalData.map(({ path, data }) => [path, data.byteLength])).toEqual([['w', 16 * 32 * 4]])
    expect(await runProgram(built, { x: inputs.x }, { w: inputs.w, b: inputs.b })).toEqual(await runProgram(built, inputs))
  })

  it('refuses a constant that is no input', () => {
    const graph = new Graph()
    graph.output('y', ops.neg(graph.input('x', 'float32', [1])))
    expect(() => program('p', graph).toOnnx({ z: float32([1], [0]) })).toThrow(GraphError)
    expect(() => program('p', graph).toOnnx({ x: int32([1], [0]) })).toThrow(GraphError)
  })

  it('reshapes by sizes that only the run knows', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['batch', 'seq', 2])
    const flat = ops.reshape(x, ['padded', 2])
    graph.output('y', ops.reshape(ops.transpose(ops.reshape(flat, ['batch', 'seq', 2, 1]), [0, 2, 1, 3]), [2, 'padded']))
    const { y } = await runGraph(graph, { x: uniform([3, 5, 2]) })
    expect(y!.shape).toEqual([2, 15])
  })

  it('pads and packs rows with zeros in the gaps', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows', 2])
    const at = graph.input('at', 'int64', ['padded'])
    graph.output('y', ops.takeRows(x, at, graph.input('inverse', 'int64', ['rows'])))
    const { y } = await runGraph(graph, {
      x: float32([2, 2], [1, 2, 3, 4]),
      at: tensor('int64', [3], BigInt64Array.of(1n, -1n, 0n)),
      inverse: tensor('int64', [2], BigInt64Array.of(2n, 0n))
    })
    expect(y).toEqual(float32([3, 2], [3, 4, 0, 0, 1, 2]))
  })

  it('attends over a cache with rows at their own positions', async () => {
    const graph = new Graph()
    const values = {
      query: uniform([2, 1, 16]),
      key: uniform([2, 1, 8]),
      value: uniform([2, 1, 8]),
      pastKey: uniform([2, 1, 4, 8]),
      pastValue: uniform([2, 1, 4, 8]),
      seqlensK: int32([2], [0, 2]),
      totalLength: int32([], [3])
    }
    const { output } = ops.groupQueryAttention({
      query: graph.input('query', 'float32', ['batch', 'seq', 16]),
      key: graph.input('key', 'float32', ['batch', 'seq', 8]),
      value: graph.input('value', 'float32', ['batch', 'seq', 8]),
      pastKey: graph.input('pastKey', 'float32', ['batch', 1, 'past', 8]),
      pastValue: graph.input('pastValue', 'float32', ['batch', 1, 'past', 8]),
      seqlensK: graph.input('seqlensK', 'int32', ['batch']),
      totalLength: graph.input('totalLength', 'int32', [])
    }, { heads: 2, kvHeads: 1 })
    graph.output('y', output)
    const { y } = await runGraph(graph, values)
    const own = values.value.data.subarray(0, 8)
    expect(y!.shape).toEqual([2, 1, 16])
    expect([...y!.data.subarray(0, 16)].map(Number)).toEqual(
      [...own, ...own].map((expected) => expect.closeTo(Number(expected), 5) as number)
    )
  })
})
