import type { Encoding } from '../../encoding.ts'
import { tensor, type Tensor } from '../../tensor.ts'
import { toFloat16 } from '../float16.ts'
import type { Graph, Value } from '../graph/graph.ts'
import { abs, cast, clip, div, maximum, mul, reduceMax, reshape, roundEven } from '../graph/operators/index.ts'

/** The largest float16. Larger values are rounded to it rather than to infinity. */
const MAX_FLOAT16 = 65_504

/** The number of steps of an int8 row on either side of zero. */
const INT8_STEPS = 127

/** Rounds float32 rows [rows, hidden] for the wire: the outputs `values` [rows, hidden] and, for int8, `scales` [rows]. */
export function emitRounded (graph: Graph, rounding: Encoding, rows: Value): void {
  const { values, scales } = rounded(rounding, rows)
  graph.output('values', values)
  if (scales !== undefined) graph.output('scales', reshape(scales, ['rows']))
}

/** Declares the inputs `values` [rows, hidden] and, for int8, `scales` [rows], and decodes them to float32 rows [rows, hidden]. */
export function decodedRows (graph: Graph, rounding: Encoding, hidden: number): Value {
  const dtypes = { fp32: 'float32', fp16: 'float16', int8: 'int8' } as const
  const values = graph.input('values', dtypes[rounding], ['rows', hidden])
  return decoded(values, rounding === 'int8' ? reshape(graph.input('scales', 'float32', ['rows']), ['rows', 1]) : undefined)
}

/** Computes float32 rows [rows, hidden] as they are once they were rounded for the wire and decoded. */
export function throughRounding (rounding: Encoding, rows: Value): Value {
  const { values, scales } = rounded(rounding, rows)
  return decoded(values, scales)
}

/** Rounds float32 rows [rows, hidden] to `values` of the same shape and, for int8, `scales` [rows, 1]. */
function rounded (rounding: Encoding, rows: Value): { values: Value, scales?: Value } {
  if (rounding === 'fp32') return { values: rows }
  if (rounding === 'fp16') return { values: cast(clip(rows, -MAX_FLOAT16, MAX_FLOAT16), 'float16') }
  const scales = mul(maximum(reduceMax(abs(rows), [1], true), 1e-30), 1 / INT8_STEPS)
  return { values: cast(clip(roundEven(div(rows, scales)), -INT8_STEPS, INT8_STEPS), 'int8'), scales }
}

function decoded (values: Value, scales: Value | undefined): Value {
  const rows = values.dtype === 'float32' ? values : cast(values, 'float32')
  return scales === undefined ? rows : mul(rows, scales)
}

/**
 * Returns the mean square of what rounding for the wire changes in one coordinate of a row, as if it were uniform within a step: of float16
 * the step is in proportion to the value, of int8 it is the row's scale. `meanSquare` is that of the row's values, `largest` the greatest.
 */
export function roundingVariance (rounding: Encoding, { meanSquare, largest }: { meanSquare: number, largest: number }): number {
  if (rounding === 'fp32') return 0
  // A step of float16 is between 2^-11 and 2^-10 of the value.
  return rounding === 'fp16' ? meanSquare * 2 ** -21 / 12 : (largest / INT8_STEPS) ** 2 / 12
}

/** Rounds host values to float16 as `emitRounded` does. */
export function halved ({ shape, data }: Tensor): Tensor {
  return tensor(
    'float16',
    shape,
    toFloat16(Float32Array.from(data as Float32Array, (value) => Math.max(-MAX_FLOAT16, Math.min(MAX_FLOAT16, value))))
  )
}
