// Products with block-quantised matrices, in the layout of onnxruntime's MatMulNBits
// (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits): each row of W [out, in] is cut
// into blocks of `blockSize` elements, the last one filled up with zeros. A block has one float32 scale, and a code for each element that
// stands for (code - 2^(bits-1)) * scale. Codes are uint8 [out, blocks, blockSize * bits / 8]; of two 4-bit ones in a byte the first has
// the low half.
import { tensor, type Tensor } from '../../../tensor.ts'
import { MICROSOFT } from '../attributes.ts'
import { GraphError } from '../errors.ts'
import type { Dim, Emitter, Value, ValueType } from '../graph.ts'
import { applyOne, requireDType, type Operator } from '../operator.ts'
import { format, sameShape } from '../shapes.ts'
import { add, cast, clip, div, equal, greater, mul, neg, roundEven, where } from './elementwise.ts'
import { concat, expand, int64s, reshape, split } from './layout.ts'
import { matmul } from './matmul.ts'
import { reduceMax } from './reduction.ts'

export interface Quantization {
  readonly bits: 4 | 8
  /** Elements with one scale: a power of two of at least 16. */
  readonly blockSize: number
}

/** A quantised matrix; its `inputSize` says how much of the last blocks belongs to it. */
export interface QuantizedMatrix {
  readonly codes: Value
  /** float32 [out, blocks]. */
  readonly scales: Value
}

interface MatrixAttributes extends Quantization {
  readonly inputSize: number
}

/** Returns the types of a quantised matrix [outputSize, inputSize]. */
export function quantizedTypes<D extends Dim> (
  [outputSize, inputSize]: readonly [D, number],
  { bits, blockSize }: Quantization
): Record<keyof QuantizedMatrix, ValueType & { readonly shape: ReadonlyArray<D | number> }> {
  const blocks = Math.ceil(inputSize / blockSize)
  return {
    codes: { dtype: 'uint8', shape: [outputSize, blocks, blockSize * bits / 8] },
    scales: { dtype: 'float32', shape: [outputSize, blocks] }
  }
}

/**
 * Rounds each element of w [out, in] to the nearest of its block's 2^bits steps. The element farthest from zero becomes the lowest code
 * exactly, so that no other is off by more than one step, and by more than half only when it is as large with the opposite sign.
 */
export function quantize (w: Value, { bits, blockSize }: Quantization): QuantizedMatrix {
  const [outputSize, inputSize] = w.shape as readonly [number, number]
  const { codes: { shape: codesShape }, scales: { shape: scalesShape } } = quantizedTypes<number>([outputSize, inputSize], {
    bits,
    blockSize
  })
  const missing = scalesShape[1]! * blockSize - inputSize
  const whole = missing === 0
    ? w
    : concat([w, expand(w.graph.constant(tensor('float32', [1, missing], new Float32Array(missing))), [outputSize, missing])], 1)
  const blocks = reshape(whole, [...scalesShape, blockSize])

  const half = 2 ** (bits - 1)
  const [highest, lowest] = [reduceMax(blocks, [-1], true), neg(reduceMax(neg(blocks), [-1], true))]
  const extreme = where(greater(highest, neg(lowest)), highest, lowest)
  const scales = div(extreme, -half)
  const steps = roundEven(div(blocks, where(equal(scales, 0), 1, scales)))
  const codes = add(clip(steps, -half, half - 1), half)
  return { codes: bits === 8 ? cast(codes, 'uint8') : packed(codes, codesShape), scales: reshape(scales, scalesShape) }
}

function packed (codes: Value, shape: readonly number[]): Value {
  const [low, high] = split(reshape(codes, [...shape, 2]), [1, 1], -1)
  return cast(reshape(add(low!, mul(high!, 16)), shape), 'uint8')
}

function rowsOf (name: string, { codes, scales }: QuantizedMatrix, attributes: MatrixAttributes): Dim {
  requireDType(name, codes, 'uint8')
  requireDType(name, scales, 'float32')
  const rows = codes.shape[0]!
  const wanted = quantizedTypes([rows, attributes.inputSize], attributes)
  if (sameShape(codes.shape, wanted.codes.shape) && sameShape(scales.shape, wanted.scales.shape)) return rows
  throw new GraphError(
    `${name} cannot read codes ${format(codes.shape)} with scales ${
      format(scales.shape)
    } as ${attributes.bits}-bit blocks of ${attributes.blockSize} along ${attributes.inputSize} columns`,
    'take the shapes from quantizedTypes'
  )
}

const dequantizeOperator: Operator<MatrixAttributes> = {
  name: 'dequantize',
  infer: (
    [codes, scales],
    attributes
  ) => [{ dtype: 'float32', shape: [rowsOf('dequantize', { codes: codes!, scales: scales! }, attributes), attributes.inputSize] }],
  // DequantizeLinear by whole rows, one block each: on CPU twice as fast as with a block size along the last axis, and seven times
  // GatherBlockQuantized.
  emit ({ inputs: [codes, scales], outputs: [w], attributes: { bits, blockSize, inputSize } }, emitter) {
    const width = scales!.shape[1] as number * blockSize
    const node = nodes(emitter)
    const bytes = bits === 8 ? emitter.name(codes!) : unpacked(emitter.name(codes!), emitter)
    const blockScales = node('Reshape', [emitter.name(scales!), emitter.constant(int64s([-1]))])
    const zeros = node('Expand', [emitter.constant(uint8([1], 2 ** (bits - 1))), node('Shape', [blockScales])])
    const elements = node('DequantizeLinear', [node('Reshape', [bytes, emitter.constant(int64s([-1, blockSize]))]), blockScales, zeros], {
      axis: { i: 0 }
    })
    const whole = inputSize === width
    const matrix = whole ? emitter.name(w!) : emitter.fresh()
    emitter.node('Reshape', [elements, emitter.constant(int64s([-1, width]))], [matrix])
    if (!whole)
      emitter.node('Slice', [matrix, emitter.constant(int64s([0])), emitter.constant(int64s([inputSize])), emitter.constant(int64s([1]))], [
        emitter.name(w!)
      ])
  }
}

/** Returns bytes with one 4-bit code each, in order. */
function unpacked (codes: string, emitter: Emitter): string {
  const node = nodes(emitter)
  const column = emitter.constant(int64s([-1, 1]))
  const low = node('BitwiseAnd', [codes, emitter.constant(uint8([], 15))])
  const high = node('BitShift', [codes, emitter.constant(uint8([], 4))], { direction: { s: 'RIGHT' } })
  return node('Concat', [node('Reshape', [low, column]), node('Reshape', [high, column])], { axis: { i: 1 } })
}

/** Appends nodes with one result each. */
function nodes (emitter: Emitter): (opType: string, inputs: readonly string[], attributes?: Parameters<Emitter['node']>[3]) => string {
  return (opType, inputs, attributes) => {
    const result = emitter.fresh()
    emitter.node(opType, inputs, [result], attributes)
    return result
  }
}

function uint8 (shape: readonly number[], value: number): Tensor {
  return tensor('uint8', shape, Uint8Array.of(value))
}

/** Returns the matrix [out, in] that the codes stand for. */
export function dequantize ({ codes, scales }: QuantizedMatrix, attributes: MatrixAttributes): Value {
  return applyOne(dequantizeOperator, [codes, scales], attributes)
}

export interface QuantizedMatmulAttributes extends MatrixAttributes {
  /**
   * What onnxruntime may round x to while it multiplies: nothing, or 8-bit blocks of its own, as most engines do when they generate. Only
   * with codes that are fixed when the program is compiled does CPU compute on them as they are; from inputs it dequantises the matrix in
   * every run.
   */
  readonly activations: 'float32' | 'int8'
}

/** MatMulNBits' accuracy_level. */
const ACCURACY_LEVEL = { float32: 1, int8: 4 }

const quantizedMatmulOperator: Operator<QuantizedMatmulAttributes> = {
  name: 'quantizedMatmul',
  infer ([x, codes, scales], attributes) {
    requireDType('quantizedMatmul', x!, 'float32')
    if (x!.shape.at(-1) !== attributes.inputSize)
      throw new GraphError(
        `quantizedMatmul cannot multiply ${format(x!.shape)} by a matrix of ${attributes.inputSize} columns`,
        'the last axis of x must be as long'
      )
    return [{ dtype: 'float32', shape: x!.shape.with(-1, rowsOf('quantizedMatmul', { codes: codes!, scales: scales! }, attributes)) }]
  },
  emit ({ inputs, outputs: [y], attributes: { bits, blockSize, inputSize, activations } }, emitter) {
    emitter.node('MatMulNBits', inputs.map(emitter.name), [emitter.name(y!)], {
      K: { i: inputSize },
      N: { i: y!.shape.at(-1) as number },
      bits: { i: bits },
      block_size: { i: blockSize },
      accuracy_level: { i: ACCURACY_LEVEL[activations] }
    }, MICROSOFT)
  },
  vjp: (
    { inputs: [, codes, scales], attributes },
    [g]
  ) => [matmul(g!, dequantize({ codes: codes!, scales: scales! }, attributes)), undefined, undefined]
}

/** Multiplies x [..., in] by the transpose of a quantised matrix: [..., out]. The matrix gets no gradient. */
export function quantizedMatmul (x: Value, { codes, scales }: QuantizedMatrix, attributes: QuantizedMatmulAttributes): Value {
  return applyOne(quantizedMatmulOperator, [x, codes, scales], attributes)
}
