import type { DType } from '../../../tensor.ts'
import { GraphError } from '../errors.ts'
import type { Value } from '../graph.ts'
import { applyOne, isFloat, onnx, requireDType, type Operator } from '../operator.ts'
import { broadcastShapes } from '../shapes.ts'
import { sumTo, zerosLike } from './layout.ts'

/** A number stands for a constant of the other operand's type. */
export type Operand = Value | number

type Rule = (gradient: Value, inputs: readonly Value[], output: Value) => readonly Value[]

/** Returns an operator on each element of one value. */
function unary (name: string, opType: string, rule: ((g: Value, x: Value, y: Value) => Value) | 'flat'): (x: Value) => Value {
  const operator: Operator<null> = {
    name,
    infer: ([x]) => [x!],
    emit: onnx(opType),
    vjp: ({ inputs: [x], outputs: [y] }, [g]) => [rule === 'flat' ? undefined : rule(g!, x!, y!)]
  }
  return (x) => applyOne(operator, [x], null)
}

/** Returns an operator on the elements of two values that broadcast. */
function binary (name: string, opType: string, rule: Rule | 'flat', result?: DType): (a: Operand, b: Operand) => Value {
  const operator: Operator<null> = {
    name,
    infer ([a, b]) {
      if (a!.dtype !== b!.dtype) throw new GraphError(`${name} mixes ${a!.dtype} and ${b!.dtype}`, 'cast one operand')
      return [{ dtype: result ?? a!.dtype, shape: broadcastShapes(name, a!.shape, b!.shape) }]
    },
    emit: onnx(opType),
    vjp ({ inputs, outputs }, [g]) {
      if (rule === 'flat') return [undefined, undefined]
      return rule(g!, inputs, outputs[0]!).map((gradient, i) => sumTo(gradient, inputs[i]!.shape))
    }
  }
  return (a, b) => applyOne(operator, operands(name, a, b), null)
}

function operands (name: string, a: Operand, b: Operand): [Value, Value] {
  if (typeof a !== 'number') return [a, typeof b === 'number' ? a.graph.scalar(b, a.dtype) : b]
  if (typeof b !== 'number') return [b.graph.scalar(a, b.dtype), b]
  throw new GraphError(`${name} takes at least one value`, 'compute constants in TypeScript')
}

export const add = binary('add', 'Add', (g) => [g, g])
export const sub = binary('sub', 'Sub', (g) => [g, neg(g)])
export const mul = binary('mul', 'Mul', (g, [a, b]) => [mul(g, b!), mul(g, a!)])
export const div = binary('div', 'Div', (g, [, b], y) => [div(g, b!), neg(div(mul(g, y), b!))])
export const maximum = binary('maximum', 'Max', (g, [a, b]) => [where(less(a!, b!), zerosLike(g), g), where(less(a!, b!), g, zerosLike(g))])
export const minimum = binary('minimum', 'Min', (g, [a, b]) => [where(less(b!, a!), zerosLike(g), g), where(less(b!, a!), g, zerosLike(g))])

export const equal = binary('equal', 'Equal', 'flat', 'bool')
export const less = binary('less', 'Less', 'flat', 'bool')
export const greater = binary('greater', 'Greater', 'flat', 'bool')
export const greaterOrEqual = binary('greaterOrEqual', 'GreaterOrEqual', 'flat', 'bool')

export const neg = unary('neg', 'Neg', (g) => neg(g))
export const exp = unary('exp', 'Exp', (g, _, y) => mul(g, y))
export const log = unary('log', 'Log', (g, x) => div(g, x))
export const sqrt = unary('sqrt', 'Sqrt', (g, _, y) => div(mul(g, 0.5), y))
export const reciprocal = unary('reciprocal', 'Reciprocal', (g, _, y) => neg(mul(g, mul(y, y))))
export const abs = unary('abs', 'Abs', (g, x) => where(less(x, 0), neg(g), g))
export const sin = unary('sin', 'Sin', (g, x) => mul(g, cos(x)))
export const cos = unary('cos', 'Cos', (g, x) => neg(mul(g, sin(x))))
export const erf = unary('erf', 'Erf', (g, x) => mul(g, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI))))
export const tanh = unary('tanh', 'Tanh', (g, _, y) => mul(g, sub(1, mul(y, y))))
export const sigmoid = unary('sigmoid', 'Sigmoid', (g, _, y) => mul(g, mul(y, sub(1, y))))
/** To the nearest integer, halves to the even one. Its derivative is zero. */
export const roundEven = unary('roundEven', 'Round', 'flat')

/** Computes x * sigmoid(x). */
export function silu (x: Value): Value {
  return mul(x, sigmoid(x))
}

const geluOperator: Operator<{ approximate: 'none' | 'tanh' }> = {
  name: 'gelu',
  infer: ([x]) => [x!],
  emit: onnx('Gelu', ({ approximate }) => ({ approximate: { s: approximate } })),
  vjp: ({ inputs: [x], attributes }, [g]) => [mul(g!, attributes.approximate === 'tanh' ? tanhGeluSlope(x!) : geluSlope(x!))]
}

/** x times the normal distribution's cumulative function at x, exactly or by the tanh approximation (https://arxiv.org/abs/1606.08415). */
export function gelu (x: Value, approximate: 'none' | 'tanh' = 'none'): Value {
  return applyOne(geluOperator, [x], { approximate })
}

function geluSlope (x: Value): Value {
  const cumulative = mul(add(erf(mul(x, Math.SQRT1_2)), 1), 0.5)
  const density = mul(exp(mul(mul(x, x), -0.5)), 1 / Math.sqrt(2 * Math.PI))
  return add(cumulative, mul(x, density))
}

function tanhGeluSlope (x: Value): Value {
  const scale = Math.sqrt(2 / Math.PI)
  const square = mul(x, x)
  const t = tanh(mul(mul(x, add(mul(square, 0.044715), 1)), scale))
  const inner = mul(add(mul(square, 3 * 0.044715), 1), scale)
  return mul(add(add(t, 1), mul(mul(x, sub(1, mul(t, t))), inner)), 0.5)
}

const whereOperator: Operator<null> = {
  name: 'where',
  infer ([condition, a, b]) {
    requireDType('where', condition!, 'bool')
    if (a!.dtype !== b!.dtype) throw new GraphError(`where mixes ${a!.dtype} and ${b!.dtype}`, 'cast one operand')
    return [{ dtype: a!.dtype, shape: broadcastShapes('where', condition!.shape, a!.shape, b!.shape) }]
  },
  emit: onnx('Where'),
  vjp ({ inputs: [condition, a, b] }, [g]) {
    return [undefined, sumTo(where(condition!, g!, 0), a!.shape), sumTo(where(condition!, 0, g!), b!.shape)]
  }
}

/** Selects a where the condition holds, and b elsewhere. */
export function where (condition: Value, a: Operand, b: Operand): Value {
  return applyOne(whereOperator, [condition, ...operands('where', a, b)], null)
}

const castOperator: Operator<{ dtype: DType }> = {
  name: 'cast',
  infer: ([x], { dtype }) => [{ dtype, shape: x!.shape }],
  emit ({ inputs: [x], outputs: [y] }, emitter) {
    emitter.node('Cast', [emitter.name(x!)], [emitter.name(y!)], { to: { dtype: y!.dtype } })
  },
  vjp: ({ inputs: [x], outputs: [y] }, [g]) => [isFloat(x!) && isFloat(y!) ? cast(g!, x!.dtype) : undefined]
}

export function cast (x: Value, dtype: DType): Value {
  return x.dtype === dtype ? x : applyOne(castOperator, [x], { dtype })
}

/** Keeps each element within [low, high]. */
export function clip (x: Value, low: number, high: number): Value {
  return minimum(maximum(x, low), high)
}
