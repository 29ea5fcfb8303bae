import { float32 } from '../../../tensor.ts'
import { Graph, type Value } from '../../graph/graph.ts'
import { add, concat, div, expand, matmul, mul, reduceMean, sqrt } from '../../graph/operators/index.ts'
import { program, type Program } from '../../graph/program.ts'

/** Keeps rows of zeros from being divided by zero. */
const EPSILON = 1e-6

/** Returns the root mean square of each row of x [rows, width]: [rows, 1]. */
function rowRms (x: Value): Value {
  return sqrt(add(reduceMean(mul(x, x), [1], true), EPSILON))
}

/**
 * Returns the inputs [rows, 2 hidden + 1] of the map: the states that enter the middle and those that left it one position before, each row
 * over its root mean square, and a 1.
 */
function features (graph: Graph, hidden: number): Value {
  const state = (name: string): Value => {
    const x = graph.input(name, 'float32', ['rows', hidden])
    return div(x, rowRms(x))
  }
  const states = [state('entering'), state('before')]
  return concat([...states, expand(graph.constant(float32([1, 1], new Float32Array([1]))), ['rows', 1])], 1)
}

/**
 * Adds pairs to the sums of a regression: inputs `entering`, `before` and `leaving` [rows, hidden], `zz` and `zy`; outputs `sum.zz` and
 * `sum.zy`. Each pair weighs 1 over the mean square of its `leaving`.
 */
export function accumulateProgram (hidden: number): Program {
  const graph = new Graph()
  const width = 2 * hidden + 1
  const leaving = graph.input('leaving', 'float32', ['rows', hidden])
  const scale = rowRms(leaving)
  const z = div(features(graph, hidden), scale)
  graph.output('sum.zz', add(graph.input('zz', 'float32', [width, width]), matmul(z, z, { transposeA: true })))
  graph.output('sum.zy', add(graph.input('zy', 'float32', [width, hidden]), matmul(z, div(leaving, scale), { transposeA: true })))
  return program('middle-map-accumulate', graph)
}

/** Predicts what leaves the middle: inputs `entering` and `before` [rows, hidden], `map` [2 hidden + 1, hidden]; output `predicted`. */
export function predictProgram (hidden: number): Program {
  const graph = new Graph()
  graph.output('predicted', matmul(features(graph, hidden), graph.input('map', 'float32', [2 * hidden + 1, hidden])))
  return program('middle-map-predict', graph)
}
