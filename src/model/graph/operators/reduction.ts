import type { Dim, Value } from '../graph.ts'
import { applyOne, onnx, positiveAxis, type Operator } from '../operator.ts'
import { cast, div, equal, exp, mul, sub } from './elementwise.ts'
import {
  emitReduction,
  expandTo,
  int64s,
  reduceAttributes,
  reducedShape,
  reduceSum,
  reshape,
  restoreAxes,
  size,
  type ReduceAttributes
} from './layout.ts'

type Axes = readonly number[] | 'all'

/** Returns how many elements each mean is over, as a scalar of x's type. */
function count (x: Value, axes: readonly number[]): Value {
  const dims = axes.map((axis) => x.shape[axis]!)
  const known = dims.reduce<number>((all, dim) => typeof dim === 'number' ? all * dim : all, 1)
  const symbolic = dims.filter((dim: Dim) => typeof dim === 'string')
  return symbolic.reduce<Value>((all, dim) => mul(all, reshape(cast(size(x.graph, dim), x.dtype), [])), x.graph.scalar(known, x.dtype))
}

const reduceMeanOperator: Operator<ReduceAttributes> = {
  name: 'reduceMean',
  infer: ([x], attributes) => [{ dtype: x!.dtype, shape: reducedShape(x!.shape, attributes) }],
  emit: emitReduction('ReduceMean'),
  vjp ({ inputs: [x], attributes }, [g]) {
    const elements = count(x!, attributes.axes ?? x!.shape.map((_, axis) => axis))
    return [expandTo(restoreAxes(div(g!, elements), x!, attributes), x!)]
  }
}

export function reduceMean (x: Value, axes: Axes = 'all', keepDims = false): Value {
  return applyOne(reduceMeanOperator, [x], reduceAttributes(x, axes, keepDims))
}

const reduceMaxOperator: Operator<ReduceAttributes> = {
  name: 'reduceMax',
  infer: ([x], attributes) => [{ dtype: x!.dtype, shape: reducedShape(x!.shape, attributes) }],
  emit: emitReduction('ReduceMax'),
  vjp ({ inputs: [x], outputs: [y], attributes }, [g]) {
    const winners = cast(equal(x!, restoreAxes(y!, x!, attributes)), x!.dtype)
    const ties = reduceSum(winners, attributes.axes ?? 'all', true)
    return [mul(restoreAxes(g!, x!, attributes), div(winners, ties))]
  }
}

/** Returns the largest element; its gradient is shared equally among ties. */
export function reduceMax (x: Value, axes: Axes = 'all', keepDims = false): Value {
  return applyOne(reduceMaxOperator, [x], reduceAttributes(x, axes, keepDims))
}

const argMaxOperator: Operator<{ axis: number }> = {
  name: 'argMax',
  infer: ([x], { axis }) => [{ dtype: 'int64', shape: x!.shape.toSpliced(axis, 1) }],
  emit: onnx('ArgMax', ({ axis }) => ({ axis: { i: axis }, keepdims: { i: 0 } }))
}

/** Returns the int64 index of the largest element along an axis, the first of equals; that axis is gone. */
export function argMax (x: Value, axis = -1): Value {
  return applyOne(argMaxOperator, [x], { axis: positiveAxis(x.shape, axis) })
}

const logSumExpOperator: Operator<ReduceAttributes> = {
  name: 'logSumExp',
  infer: ([x], attributes) => [{ dtype: x!.dtype, shape: reducedShape(x!.shape, attributes) }],
  // Several nodes: onnxruntime's ReduceLogSumExp kernel for CPU takes three times as long (512 x 32000).
  emit ({ inputs: [x], outputs: [y], attributes: { axes, keepDims } }, emitter) {
    const over = axes === null ? [] : [emitter.constant(int64s(axes))]
    const [largest, shifted, exponentials, sum, logarithm, sumOfAll] = Array.from({ length: 6 }, emitter.fresh) as [
      string,
      string,
      string,
      string,
      string,
      string
    ]
    emitter.node('ReduceMax', [emitter.name(x!), ...over], [largest], { keepdims: { i: 1 } })
    emitter.node('Sub', [emitter.name(x!), largest], [shifted])
    emitter.node('Exp', [shifted], [exponentials])
    emitter.node('ReduceSum', [exponentials, ...over], [sum], { keepdims: { i: 1 } })
    emitter.node('Log', [sum], [logarithm])
    if (keepDims) return emitter.node('Add', [logarithm, largest], [emitter.name(y!)])
    emitter.node('Add', [logarithm, largest], [sumOfAll])
    emitter.node('ReduceSum', [sumOfAll, ...over], [emitter.name(y!)], { keepdims: { i: 0 } })
  },
  vjp ({ inputs: [x], outputs: [y], attributes }, [g]) {
    return [mul(restoreAxes(g!, x!, attributes), exp(sub(x!, restoreAxes(y!, x!, attributes))))]
  }
}

/** Computes log(sum(exp(x))) over axes, without overflow. */
export function logSumExp (x: Value, axes: Axes = 'all', keepDims = false): Value {
  return applyOne(logSumExpOperator, [x], reduceAttributes(x, axes, keepDims))
}

const softmaxOperator: Operator<{ axis: number }> = {
  name: 'softmax',
  infer: ([x]) => [x!],
  emit: onnx('Softmax', ({ axis }) => ({ axis: { i: axis } })),
  vjp: ({ outputs: [y], attributes: { axis } }, [g]) => [mul(y!, sub(g!, reduceSum(mul(g!, y!), [axis], true)))]
}

export function softmax (x: Value, axis = -1): Value {
  return applyOne(softmaxOperator, [x], { axis: positiveAxis(x.shape, axis) })
}
