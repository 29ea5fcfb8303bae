import type { Dim, Value } from '../../../src/model/graph/graph.ts'
import * as ops from '../../../src/model/graph/operators/index.ts'
import { float32, tensor } from '../../../src/tensor.ts'
import type { DerivativeCase } from './derivatives.ts'

const rows = (values: readonly number[], shape: readonly number[] = [values.length]) =>
  tensor('int64', shape, BigInt64Array.from(values, BigInt))
const sizes = { rows: 3, seq: 2, 'rows+seq': 5, 'rows-1': 2 }
const unary = (apply: (x: Value) => Value, interval: readonly [number, number] = [-1, 1]): DerivativeCase => ({
  shapes: [['rows', 1, 4]],
  sizes,
  interval,
  build: ([x]) => apply(x!)
})
const binary = (apply: (a: Value, b: Value) => Value, interval: readonly [number, number] = [0.5, 2]): DerivativeCase => ({
  shapes: [['rows', 1, 4], [5, 1], [4], []], sizes, interval, build: ([a, b, c, d]) => apply(apply(apply(a!, b!), c!), d!)
})
const indexed = (name: string, shape: readonly Dim[], values: readonly number[]): NonNullable<DerivativeCase['extra']> => (graph) => ({
  [name]: {
    value: graph.input(name, 'int64', shape),
    data: rows(values, shape.map((dim) => typeof dim === 'number' ? dim : values.length))
  }
})

/** Every operator that has a derivative, by name, on shapes that include size 1 and broadcast. */
export const operatorCases: Readonly<Record<string, DerivativeCase>> = {
  add: binary(ops.add),
  sub: binary(ops.sub),
  mul: binary(ops.mul),
  div: binary(ops.div),
  'the same value twice': { shapes: [['rows', 4]], sizes, build: ([x]) => ops.mul(x!, ops.add(x!, x!)) },
  maximum: { shapes: [['rows', 1], [1, 4]], sizes, build: ([a, b]) => ops.maximum(a!, b!) },
  minimum: { shapes: [['rows', 1], [1, 4]], sizes, build: ([a, b]) => ops.minimum(a!, b!) },
  clip: unary((x) => ops.clip(x, -0.5, 0.5)),
  neg: unary(ops.neg),
  exp: unary(ops.exp),
  log: unary(ops.log, [0.5, 2]),
  sqrt: unary(ops.sqrt, [0.5, 2]),
  reciprocal: unary(ops.reciprocal, [0.5, 2]),
  abs: unary(ops.abs, [0.1, 1]),
  sin: unary(ops.sin),
  cos: unary(ops.cos),
  erf: unary(ops.erf),
  tanh: unary(ops.tanh),
  sigmoid: unary(ops.sigmoid),
  silu: unary(ops.silu),
  gelu: unary((x) => ops.gelu(x)),
  'gelu (tanh)': unary((x) => ops.gelu(x, 'tanh')),
  where: { shapes: [['rows', 4], [1]], sizes, build: ([a, b]) => ops.where(ops.less(ops.mul(a!, 0), a!), a!, b!) },
  'where of operands that all broadcast': {
    shapes: [['rows', 1], [1, 4]],
    sizes,
    extra: (graph) => ({ at: { value: graph.input('at', 'bool', [2, 1, 1]), data: tensor('bool', [2, 1, 1], Uint8Array.of(1, 0)) } }),
    build: ([a, b], { at }) => ops.where(at!, a!, b!)
  },
  'roundEven, which is flat': unary((x) => ops.add(ops.mul(ops.roundEven(ops.mul(x, 0.1)), x), x)),
  softmax: unary((x) => ops.softmax(x)),
  'softmax of an axis of size 1': unary((x) => ops.softmax(x, 1)),
  'softmax of an inner axis': { shapes: [[2, 3, 2]], build: ([x]) => ops.softmax(x!, 1) },
  'logSumExp that keeps its axes': unary((x) => ops.logSumExp(x, [2], true)),
  logSumExp: unary((x) => ops.logSumExp(x, [0, 2])),
  'logSumExp of an axis of size 1': unary((x) => ops.logSumExp(x, [1])),
  'reduceSum of all': unary((x) => ops.reduceSum(x)),
  'reduceSum of a symbolic axis': unary((x) => ops.reduceSum(x, [0])),
  'reduceSum of an axis of size 1': unary((x) => ops.reduceSum(x, [1])),
  'reduceSum that keeps its axes': unary((x) => ops.reduceSum(x, [0, 2], true)),
  'reduceMean of all': unary((x) => ops.reduceMean(x)),
  'reduceMean of a symbolic axis': unary((x) => ops.reduceMean(x, [0])),
  'reduceMean of an axis of size 1': unary((x) => ops.reduceMean(x, [1])),
  'reduceMean of the last axis': unary((x) => ops.reduceMean(x, [-1], true)),
  reduceMax: unary((x) => ops.reduceMax(x, [-1])),
  'reduceMax of an axis of size 1': unary((x) => ops.reduceMax(x, [1])),
  expand: { shapes: [['rows', 1]], sizes, build: ([x]) => ops.expand(x!, [2, 'rows', 3]) },
  'expand to a symbolic size': { shapes: [[1, 3], ['rows', 1]], sizes, build: ([x, y]) => ops.mul(ops.expand(x!, ['rows', 3]), y!) },
  'expand of nothing but size 1': { shapes: [[1]], sizes: { rows: 1 }, build: ([x]) => ops.expand(x!, [1, 1]) },
  'transpose of axes of size 1': unary((x) => ops.transpose(x, [1, 2, 0])),
  transpose: { shapes: [['rows', 2, 4]], sizes, build: ([x]) => ops.transpose(x!, [2, 0, 1]) },
  'reshape to and from axes of size 1': unary((x) => ops.reshape(ops.mul(ops.reshape(x, [1, 'rows', 4, 1]), 2), ['rows', 4])),
  reshape: { shapes: [['rows', 4]], sizes, build: ([x]) => ops.reshape(x!, ['rows', 2, 2]) },
  'reshape of two symbolic sizes and back': {
    shapes: [['seq', 'rows', 4]],
    sizes,
    build: ([x]) => ops.mul(ops.reshape(ops.mul(ops.reshape(x!, ['flat', 4]), 2), ['seq', 'rows', 4]), x!)
  },
  concat: { shapes: [['rows', 2], ['rows', 3]], sizes, build: ([a, b]) => ops.concat([a!, b!, a!], -1) },
  'concat of parts of size 1': { shapes: [['rows', 1], ['rows', 1]], sizes, build: ([a, b]) => ops.concat([a!, b!], 1) },
  'concat of symbolic sizes': { shapes: [['rows', 2], ['seq', 2]], sizes, build: ([a, b]) => ops.concat([a!, b!], 0) },
  split: { shapes: [['rows', 5]], sizes, build: ([x]) => ops.split(x!, [2, 3], 1) },
  'split into parts of size 1': { shapes: [['rows', 2]], sizes, build: ([x]) => ops.split(x!, [1, 1], 1) },
  'split, of which one part is used': { shapes: [['rows', 5]], sizes, build: ([x]) => ops.split(x!, [1, 2, 2], -1)[1]! },
  'split of a symbolic axis': {
    shapes: [['rows', 2], ['seq', 2]],
    sizes,
    build: ([a, b]) => ops.split(ops.concat([a!, b!], 0), ['rows', 'seq'], 0)
  },
  slice: { shapes: [[5, 'rows']], sizes, build: ([x]) => ops.slice(x!, 0, 1, 4) },
  'slice of one element, and of an axis that has one': {
    shapes: [[5, 1]],
    build: ([x]) => [ops.slice(x!, 0, 4, 5), ops.slice(x!, 1, 0, 1)]
  },
  'slice of a symbolic axis': { shapes: [['rows', 2]], sizes, build: ([x]) => [ops.slice(x!, 0, 1), ops.slice(x!, 0, 1, 2)] },
  matmul: { shapes: [['rows', 4], [4, 5]], sizes, build: ([a, b]) => ops.matmul(a!, b!) },
  'matmul of single rows and columns': {
    shapes: [['rows', 1], [1, 4], [4, 1]],
    sizes,
    build: (
      [a, b, c]
    ) => [
      ops.matmul(a!, b!),
      ops.matmul(b!, c!),
      ops.matmul(a!, c!, { transposeB: true }),
      ops.matmul(c!, b!, { transposeA: true, transposeB: true })
    ]
  },
  'matmul of transposed matrices': {
    shapes: [['rows', 4], [5, 4], ['rows', 2]],
    sizes,
    build: ([a, b, c]) => [ops.matmul(a!, b!, { transposeB: true }), ops.matmul(c!, a!, { transposeA: true })]
  },
  'matmul of two transposed matrices': {
    shapes: [[4, 'rows'], [5, 4]],
    sizes,
    build: ([a, b]) => ops.matmul(a!, b!, { transposeA: true, transposeB: true })
  },
  'matmul of batches': { shapes: [[2, 1, 'rows', 4], [3, 4, 5]], sizes, build: ([a, b]) => ops.matmul(a!, b!) },
  'matmul of transposed batches': {
    shapes: [[2, 1, 'rows', 4], [3, 5, 4], ['rows', 2]],
    sizes,
    build: (
      [a, b, c]
    ) => [
      ops.matmul(a!, b!, { transposeB: true }),
      ops.matmul(a!, c!, { transposeA: true }),
      ops.matmul(ops.transpose(b!, [0, 2, 1]), b!, { transposeA: true, transposeB: true })
    ]
  },
  rmsNorm: { shapes: [['rows', 4], [4]], sizes, build: ([x, w]) => ops.rmsNorm(x!, w!, 1e-5).output },
  'rmsNorm of single elements': {
    shapes: [['rows', 1], [1]],
    sizes,
    interval: [0.5, 2],
    build: ([x, w]) => ops.rmsNorm(x!, w!, 1e-1).output
  },
  'layerNorm of single elements': { shapes: [['rows', 1], [1], [1]], sizes, build: ([x, w, b]) => ops.layerNorm(x!, w!, b!, 1e-1).output },
  'rmsNorm and layerNorm of batches': {
    shapes: [['rows', 1, 4], [4], [4]],
    sizes,
    build: ([x, w, b]) => [ops.rmsNorm(x!, w!, 1e-5).output, ops.layerNorm(x!, w!, b!, 1e-5).output]
  },
  layerNorm: { shapes: [['rows', 4], [4], [4]], sizes, build: ([x, w, b]) => ops.layerNorm(x!, w!, b!, 1e-5).output },
  gather: { shapes: [[4, 'rows']], sizes, extra: indexed('at', [2, 2], [1, 3, 1, 0]), build: ([x], { at }) => ops.gather(x!, at!, 0) },
  'gather along an inner axis': {
    shapes: [['rows', 4, 2]],
    sizes,
    extra: indexed('at', [2, 3], [1, 3, 1, 0, 2, 2]),
    build: ([x], { at }) => ops.gather(x!, at!, 1)
  },
  'gather of one slice': { shapes: [['rows', 4, 2]], sizes, extra: indexed('at', [], [2]), build: ([x], { at }) => ops.gather(x!, at!, 1) },
  'gather of slices of one row': {
    shapes: [[1, 'rows', 1]],
    sizes,
    extra: indexed('at', [2], [0, 0]),
    build: ([x], { at }) => [ops.gather(x!, at!, 0), ops.gather(x!, at!, 2)]
  },
  gatherRows: { shapes: [['rows', 4]], sizes, extra: indexed('at', [5], [1, 0, 1, 2, 1]), build: ([x], { at }) => ops.gatherRows(x!, at!) },
  takeRows: {
    shapes: [['rows', 4]],
    sizes: { rows: 4, padded: 5 },
    extra: (graph) => ({
      at: { value: graph.input('at', 'int64', ['padded']), data: rows([3, -1, 0, -1, 2]) },
      inverse: { value: graph.input('inverse', 'int64', ['rows']), data: rows([2, -1, 4, 0]) }
    }),
    build: ([x], { at, inverse }) => ops.takeRows(ops.mul(x!, x!), at!, inverse!)
  },
  'takeRows of one row without gaps': {
    shapes: [[1, 4]],
    extra: indexed('at', [1], [0]),
    build: ([x], { at }) => ops.takeRows(ops.mul(x!, x!), at!, at!, { gapsInIndices: false, gapsInInverse: false })
  },
  'crossEntropy of one row, and of one class': {
    shapes: [[1, 4], ['rows', 1]],
    sizes,
    extra: (graph) => ({ ...indexed('at', [1], [2])(graph), ...indexed('only', ['rows'], [0, 0, 0])(graph) }),
    build: ([x, y], { at, only }) => [ops.crossEntropy(x!, at!), ops.crossEntropy(y!, only!)]
  },
  crossEntropy: {
    shapes: [['rows', 4]],
    sizes,
    extra: indexed('at', ['rows'], [1, 3, 0]),
    build: ([x], { at }) => ops.crossEntropy(x!, at!)
  },
  gatherElements: {
    shapes: [['rows', 4]],
    sizes,
    extra: indexed('at', [3, 2], [1, 3, 1, 0, 2, 2]),
    build: ([x], { at }) => ops.gatherElements(x!, at!, 1)
  },
  scatterElements: {
    shapes: [['rows', 4], [3, 2]],
    sizes,
    extra: indexed('at', [3, 2], [1, 3, 1, 0, 2, 2]),
    build: ([x, y], { at }) => ops.scatterElements(x!, at!, y!, 1)
  },
  'gatherElements and scatterElements of one column': {
    shapes: [['rows', 1], [3, 1]],
    sizes,
    extra: indexed('at', [3, 1], [0, 0, 0]),
    build: ([x, y], { at }) => [ops.gatherElements(x!, at!, 1), ops.scatterElements(x!, at!, y!, 1)]
  },
  'rotaryEmbedding of neighbouring pairs in a part of each head': {
    shapes: [[1, 1, 8]],
    extra: (graph) => ({
      positions: { value: graph.input('positions', 'int64', [1, 1]), data: rows([1], [1, 1]) },
      cos: { value: graph.input('cos', 'float32', [2, 1]), data: float32([2, 1], [1, 0.54]) },
      sin: { value: graph.input('sin', 'float32', [2, 1]), data: float32([2, 1], [0, 0.84]) }
    }),
    build: ([x], { positions, cos, sin }) => ops.rotaryEmbedding(x!, positions!, cos!, sin!, { heads: 2, rotaryDim: 2, interleaved: true })
  },
  rotaryEmbedding: {
    shapes: [[1, 'rows', 8]],
    sizes,
    extra: (graph) => ({
      positions: { value: graph.input('positions', 'int64', [1, 'rows']), data: rows([1, 0, 2], [1, 3]) },
      cos: { value: graph.input('cos', 'float32', [3, 2]), data: float32([3, 2], [1, 1, 0.54, 0.99, -0.42, 0.9]) },
      sin: { value: graph.input('sin', 'float32', [3, 2]), data: float32([3, 2], [0, 0, 0.84, 0.1, 0.91, 0.2]) }
    }),
    build: ([x], { positions, cos, sin }) => ops.rotaryEmbedding(x!, positions!, cos!, sin!, { heads: 2 })
  }
}
