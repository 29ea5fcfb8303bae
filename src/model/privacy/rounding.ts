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
  if (rounding === 'fp32') return graph.output('values', rows)
  if (rounding === 'fp16') return graph.output('values', cast(clip(rows, -MAX_FLOAT16, MAX_FLOAT16), 'float16'))
  const scales = mul(maximum(reduceMax(abs(rows), [1], true), 1e-30), 1 / INT8_STEPS)
  graph.output('values', cast(clip(roundEven(div(rows, scales)), -INT8_STEPS, INT8_STEPS), 'int8'))
  graph.output('scales', reshape(scales, ['rows']))
}

/** Declares the inputs `values` [rows, hidden] and, for int8, `scales` [rows], and decodes them to float32 rows [rows, hidden]. */
export function decodedRows (graph: Graph, rounding: Encoding, hidden: number): Value {
  const dtypes = { fp32: 'float32', fp16: 'float16', int8: 'int8' } as const
  const values = graph.input('values', dtypes[rounding], ['rows', hidden])
  if (rounding === 'fp32') return values
  const rows = cast(values, 'float32')
  return rounding === 'int8' ? mul(rows, reshape(graph.input('scales', 'float32', ['rows']), ['rows', 1])) : rows
}

/** Rounds host values to float16 as `emitRounded` does. */
export function halved ({ shape, data }: Tensor): Tensor {
  return tensor(
    'float16',
    shape,
    toFloat16(Float32Array.from(data as Float32Array, (value) => Math.max(-MAX_FLOAT16, Math.min(MAX_FLOAT16, value))))
  )
}
