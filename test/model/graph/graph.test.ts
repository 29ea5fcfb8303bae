import { describe, expect, it } from 'vitest'
import { differentiate } from '../../../src/model/graph/differentiate.ts'
import { GraphError } from '../../../src/model/graph/errors.ts'
import { Graph } from '../../../src/model/graph/graph.ts'
import * as ops from '../../../src/model/graph/operators/index.ts'
import { float32 } from '../../../src/tensor.ts'
import { runGraph } from './run.ts'

describe('Graph', () => {
  it('holds equal constants and equal applications once', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows', 4])
    expect(graph.scalar(2)).toBe(graph.constant(float32([], [2])))
    expect(ops.add(x, 2)).toBe(ops.add(x, 2))
    expect(ops.softmax(x, 1)).toBe(ops.softmax(x, -1))
    expect(ops.softmax(x, 0)).not.toBe(ops.softmax(x, 1))
    expect(graph.nodes).toHaveLength(3)
  })

  it('tells constants of different types and shapes apart', () => {
    const graph = new Graph()
    expect(graph.scalar(0, 'int32')).not.toBe(graph.scalar(0))
    expect(graph.scalar(0)).not.toBe(graph.constant(float32([1], [0])))
  })

  it('gives back a declared input, and refuses its name for another type', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows', 4])
    expect(graph.input('x', 'float32', ['rows', 4])).toBe(x)
    expect(() => graph.input('x', 'float32', ['rows', 5])).toThrow(GraphError)
  })

  it('refuses an output name for a second value', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [4])
    graph.output('y', x)
    expect(() => { graph.output('y', ops.neg(x)) }).toThrow(GraphError)
  })

  it('refuses operands of another graph', () => {
    const x = new Graph().input('x', 'float32', [4])
    const y = new Graph().input('y', 'float32', [4])
    expect(() => ops.add(x, y)).toThrow(/two graphs/)
  })

  it('refuses axes and sizes of a value of any shape, which it would otherwise guess', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', undefined)
    for (const use of [() => ops.softmax(x), () => ops.reduceSum(x, [0]), () => ops.concat([x, x], 0), () => ops.size(graph, x.shape[0]!)])
      expect(use).toThrow('a value of any shape')
    expect(() => differentiate(graph, [{ value: ops.reduceMean(x), gradient: graph.scalar(1) }], [x])).toThrow('a value of any shape')
  })

  it('rounds scalars to float16 as onnxruntime does', async () => {
    const values = [0, 1, -2, 0.1, 1 / 3, 65504, 65519, 65520, 1e6, 2 ** -14, 2 ** -24, 2 ** -25, 3e-8, 1.00048828125, 2047.5, -1e-7, NaN]
    const graph = new Graph()
    for (const [i, value] of values.entries()) {
      graph.output(`ours${i}`, ops.cast(graph.scalar(value, 'float16'), 'float32'))
      graph.output(`theirs${i}`, ops.cast(ops.cast(graph.scalar(value), 'float16'), 'float32'))
    }
    const results = await runGraph(graph, {})
    for (const [i, value] of values.entries()) expect(results[`ours${i}`]!.data[0], String(value)).toBe(results[`theirs${i}`]!.data[0])
  })
})

describe('shapes', () => {
  const operands = () => {
    const graph = new Graph()
    return {
      graph,
      rows: graph.input('a', 'float32', ['rows', 4]),
      others: graph.input('b', 'float32', ['others', 4]),
      fixed: graph.input('c', 'float32', [3, 4])
    }
  }

  it('broadcast symbolic sizes against themselves and 1 only', () => {
    const { rows, others, fixed } = operands()
    expect(ops.add(rows, ops.reduceSum(others, [0], true)).shape).toEqual(['rows', 4])
    expect(() => ops.add(rows, others)).toThrow(/others against|against others/)
    expect(() => ops.add(rows, fixed)).toThrow(GraphError)
  })

  it('name the size of a concatenation after its parts', () => {
    const { rows, others, fixed } = operands()
    expect(ops.concat([rows, others], 0).shape).toEqual(['rows+others', 4])
    expect(ops.concat([rows, fixed], 0).shape).toEqual(['rows+3', 4])
    expect(ops.concat([rows, rows], 0, 'both').shape).toEqual(['both', 4])
    expect(ops.slice(rows, 0, 1).shape).toEqual(['rows-1', 4])
  })

  it.each([
    ['a reshape that loses elements', (x: ReturnType<typeof operands>) => ops.reshape(x.fixed, [5, 2])],
    ['an axis that does not exist', (x: ReturnType<typeof operands>) => ops.softmax(x.fixed, 2)],
    ['inner sizes that differ', (x: ReturnType<typeof operands>) => ops.matmul(x.rows, x.fixed)],
    ['a split that does not add up', (x: ReturnType<typeof operands>) => ops.split(x.fixed, [1, 2], 1)],
    ['a slice beyond the end', (x: ReturnType<typeof operands>) => ops.slice(x.fixed, 0, 1, 4)],
    ['a permutation that repeats an axis', (x: ReturnType<typeof operands>) => ops.transpose(x.fixed, [0, 0])],
    ['an expansion of an axis that is not 1', (x: ReturnType<typeof operands>) => ops.expand(x.fixed, [6, 4])],
    ['a size that nothing has', (x: ReturnType<typeof operands>) => ops.range(x.graph, 'nowhere')]
  ])('refuse %s', (_, build) => {
    expect(() => build(operands())).toThrow(GraphError)
  })
})
