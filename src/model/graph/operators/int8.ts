// Products of rows that are rounded to 8 bits with a matrix that is kept in 8 bits, in the integer arithmetic of onnxruntime's CPU kernels.
// Each row of the left operand has a scale of its own, as has each column of the right one: one scale for all rows would leave nothing of
// most rows beside the few that are many times as long, such as those of a text's first token. Within a row, and within a column, few
// elements are many times as large as the others: both are turned by a Hadamard matrix first, which spreads them and leaves the product as
// it is. Both are symmetric. A row's codes are uint8 with 128 for zero, since x86 processors multiply unsigned by signed bytes.
import { tensor } from '../../../tensor.ts'
import { MICROSOFT } from '../attributes.ts'
import { GraphError } from '../errors.ts'
import type { Emitter, Value } from '../graph.ts'
import { apply, applyOne, onnx, requireDType, type Operator } from '../operator.ts'
import { format } from '../shapes.ts'
import { abs, cast, clip, div, maximum, roundEven } from './elementwise.ts'
import { hadamard } from './hadamard.ts'
import { int64s, transpose } from './layout.ts'
import { reduceMax } from './reduction.ts'

/** A matrix [in, out] in 8 bits. */
export interface Int8Matrix {
  /** int8 [in, out]: the steps from zero of each element of the matrix with its columns turned. */
  readonly codes: Value
  /** float32 [out]: what a step of each column stands for. */
  readonly scales: Value
}

/** A matrix with its transpose, whose columns have scales of their own: a product's derivative multiplies by it. */
export interface Int8Matrices {
  readonly matrix: Int8Matrix
  readonly transposed: Int8Matrix
}

/** Steps of a row's largest element from zero. */
const ROW_STEPS = 127
/** The code of zero in a row. */
const ROW_ZERO = 128

/**
 * The most columns that a left operand may have: the sum of so many products of 127 by 127 is below 2^31. Sums on the way wrap around, and
 * come back.
 */
export const MAX_INT8_INPUT = Math.floor((2 ** 31 - 1) / ROW_STEPS ** 2)

/** A row of zeros has this step, by which every other number of the row would be divided. Rows this small come out as zeros. */
const LEAST_STEP = 1e-30

/**
 * Turns the columns of w [in, out], and rounds each element to the nearest of its column's steps; the one that is farthest from zero is
 * `steps` of them. `steps` is 127, or 64 where a processor adds pairs of products in 16 bits, which 255 * 127 * 2 would be too much for.
 */
export function quantizeColumns (w: Value, steps: number): Int8Matrix {
  const spread = transpose(hadamard(transpose(w, [1, 0])), [1, 0])
  const scales = div(reduceMax(abs(spread), [0]), steps)
  const codes = clip(roundEven(div(spread, maximum(scales, LEAST_STEP))), -steps, steps)
  return { codes: cast(codes, 'int8'), scales }
}

/** Rows in 8 bits: codes uint8 [rows, in], scales float32 [rows, 1]. */
interface Int8Rows {
  readonly codes: Value
  readonly scales: Value
}

const quantizeRowsOperator: Operator<null> = {
  name: 'quantizeRows',
  infer ([x]) {
    requireDType('quantizeRows', x!, 'float32')
    if (x!.shape.length !== 2) throw new GraphError(`quantizeRows cannot round ${format(x!.shape)}`, 'reshape it to [rows, in]')
    return [{ dtype: 'uint8', shape: x!.shape }, { dtype: 'float32', shape: [x!.shape[0]!, 1] }]
  },
  emit ({ inputs: [x], outputs: [codes, scales] }, emitter) {
    const node = nodes(emitter)
    const last = emitter.constant(int64s([-1]))
    const largest = node('ReduceMax', [node('Abs', [emitter.name(x!)]), last], { keepdims: { i: 0 } })
    const step = node('Max', [
      node('Div', [largest, scalar(emitter, ROW_STEPS)]),
      scalar(emitter, LEAST_STEP)
    ])
    const zeros = node('Expand', [emitter.constant(tensor('uint8', [1], Uint8Array.of(ROW_ZERO))), node('Shape', [step])])
    emitter.node('QuantizeLinear', [emitter.name(x!), step, zeros], [emitter.name(codes!)], { axis: { i: 0 } })
    emitter.node('Unsqueeze', [step, last], [emitter.name(scales!)])
  }
}

function quantizeRows (x: Value): Int8Rows {
  const [codes, scales] = apply(quantizeRowsOperator, x.graph, [x], null)
  return { codes: codes!, scales: scales! }
}

/**
 * Multiplies x [rows, in] by a matrix [in, out], each row of x turned and rounded to 8 bits: [rows, out]. The derivative multiplies the
 * gradient's rows, rounded in the same way, by the transposed matrix; it is close to that of the values that the codes stand for, and not
 * equal to it. The matrix gets no gradient. A row with an infinity is not finite after it; of a NaN, which onnxruntime's maximum passes
 * over, only the residual stream beside the product tells. Throws GraphError where sums of products would overflow.
 */
export function int8Matmul (x: Value, { matrix, transposed }: Int8Matrices): Value {
  const rows = quantizeRows(hadamard(x))
  const [inputSize, outputSize] = matrix.codes.shape
  requireDType('int8Matmul', matrix.codes, 'int8')
  if (x.shape[1] !== inputSize)
    throw new GraphError(`int8Matmul cannot multiply ${format(x.shape)} by ${format(matrix.codes.shape)}`, 'the inner sizes must agree')
  if (Number(inputSize) > MAX_INT8_INPUT)
    throw new GraphError(`int8Matmul cannot add up ${String(inputSize)} products in 32 bits`, 'compute in fp32')
  // x is an operand for the sake of the derivative alone.
  const inputs = [x, rows.codes, rows.scales, matrix.codes, matrix.scales]
  const [y] = x.graph.add({
    name: 'int8Matmul',
    inputs,
    key: `${transposed.codes.id} ${transposed.scales.id}`,
    types: [{ dtype: 'float32', shape: [x.shape[0]!, outputSize!] }],
    build: ([y]) => ({
      emit (emitter) {
        const product = emitter.fresh()
        emitter.node('MatMulIntegerToFloat', [
          emitter.name(rows.codes),
          emitter.name(matrix.codes),
          scalar(emitter, 1),
          emitter.name(matrix.scales),
          emitter.constant(tensor('uint8', [], Uint8Array.of(ROW_ZERO)))
        ], [product], {}, MICROSOFT)
        emitter.node('Mul', [product, emitter.name(rows.scales)], [emitter.name(y!)])
      },
      vjp: ([g]) => [int8Matmul(g!, { matrix: transposed, transposed: matrix }), undefined, undefined, undefined, undefined]
    })
  })
  return y!
}

const multiplyIntegersOperator: Operator<null> = {
  name: 'multiplyIntegers',
  infer ([a, b]) {
    requireDType('multiplyIntegers', a!, 'uint8')
    requireDType('multiplyIntegers', b!, 'int8')
    return [{ dtype: 'int32', shape: [a!.shape[0]!, b!.shape[1]!] }]
  },
  emit: onnx('MatMulInteger')
}

/** Multiplies uint8 [rows, in] by int8 [in, out] as the kernels of `int8Matmul` do: int32 [rows, out]. */
export function multiplyIntegers (a: Value, b: Value): Value {
  return applyOne(multiplyIntegersOperator, [a, b], null)
}

function scalar (emitter: Emitter, value: number): string {
  return emitter.constant(tensor('float32', [], Float32Array.of(value)))
}

/** Appends nodes with one result each. */
function nodes (emitter: Emitter): (opType: string, inputs: readonly string[], attributes?: Parameters<Emitter['node']>[3]) => string {
  return (opType, inputs, attributes) => {
    const result = emitter.fresh()
    emitter.node(opType, inputs, [result], attributes)
    return result
  }
}
