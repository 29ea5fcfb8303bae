import { describe, expect, it } from 'vitest'
import { differentiate } from '../../../src/model/graph/differentiate.ts'
import { Graph } from '../../../src/model/graph/graph.ts'
import * as ops from '../../../src/model/graph/operators/index.ts'
import { float32 } from '../../../src/tensor.ts'
import { runGraph } from './run.ts'

describe('differentiate', () => {
  it('gives zeros for what no output depends on', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows'])
    const [gradient] = differentiate(graph, [{ value: graph.input('y', 'float32', []), gradient: graph.scalar(1) }], [x])
    graph.output('g', gradient!)
    const { g } = await runGraph(graph, { x: float32([3], [1, 2, 3]) })
    expect(g).toEqual(float32([3], [0, 0, 0]))
  })

  it('passes the gradient of an output straight to an input that is one', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows'])
    const g = graph.input('g', 'float32', ['rows'])
    expect(differentiate(graph, [{ value: x, gradient: g }], [x])).toEqual([g])
  })

  it('adds up the gradients of several outputs', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [])
    const outputs = [{ value: ops.mul(x, x), gradient: graph.scalar(1) }, { value: ops.mul(x, 3), gradient: graph.scalar(2) }]
    graph.output('g', differentiate(graph, outputs, [x])[0]!)
    expect((await runGraph(graph, { x: float32([], [5]) })).g!.data[0]).toBe(2 * 5 + 3 * 2)
  })

  it('differentiates with respect to an intermediate value', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [])
    const square = ops.mul(x, x)
    graph.output('g', differentiate(graph, [{ value: ops.mul(square, square), gradient: graph.scalar(1) }], [square])[0]!)
    expect((await runGraph(graph, { x: float32([], [3]) })).g!.data[0]).toBe(18)
  })

  it('differentiates a derivative', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', [])
    const [first] = differentiate(graph, [{ value: ops.mul(x, ops.mul(x, x)), gradient: graph.scalar(1) }], [x])
    graph.output('g', differentiate(graph, [{ value: first!, gradient: graph.scalar(1) }], [x])[0]!)
    expect((await runGraph(graph, { x: float32([], [2]) })).g!.data[0]).toBe(12)
  })

  it('passes through casts between floats, in the type of what was cast', async () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows'])
    const half = ops.cast(x, 'float16')
    const [gradient] = differentiate(graph, [{
      value: ops.cast(ops.mul(half, half), 'float32'),
      gradient: graph.input('g', 'float32', ['rows'])
    }], [x])
    graph.output('gradient', gradient!)
    expect((await runGraph(graph, { x: float32([2], [0.5, -3]), g: float32([2], [1, 2]) })).gradient).toEqual(float32([2], [1, -12]))
  })

  it('does not follow integers', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows'])
    const [gradient] = differentiate(graph, [{ value: ops.cast(ops.cast(x, 'int32'), 'float32'), gradient: x }], [x])
    expect(graph.producer(gradient!)!.name).toBe('zerosLike')
  })

  it('refuses a gradient of another shape', () => {
    const graph = new Graph()
    const x = graph.input('x', 'float32', ['rows'])
    expect(() => differentiate(graph, [{ value: x, gradient: graph.scalar(1) }], [x])).toThrow(/does not fit/)
  })

  it('names the operator that has no derivative', () => {
    const graph = new Graph()
    const [query, key, value] = ['query', 'key', 'value'].map((name) => graph.input(name, 'float32', ['batch', 'seq', 8]))
    const [pastKey, pastValue] = ['pastKey', 'pastValue'].map((name) => graph.input(name, 'float32', ['batch', 1, 'past', 8]))
    const { output } = ops.groupQueryAttention({
      query: query!, key: key!, value: value!, pastKey: pastKey!, pastValue: pastValue!,
      seqlensK: graph.input('seqlensK', 'int32', ['batch']), totalLength: graph.input('totalLength', 'int32', [])
    }, { heads: 1, kvHeads: 1 })
    expect(() => differentiate(graph, [{ value: output, gradient: query! }], [query!])).toThrow(/groupQueryAttention has no derivative/)
  })
})
