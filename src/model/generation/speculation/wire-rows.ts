import type { Tensor } from '../../../tensor.ts'
import { fromFloat16 } from '../../float16.ts'

/** Decodes states [rows, hidden] in the encoding of the wire, int8 ones with their scales [rows], to float32 in host memory. */
export function rowsFromWire ([values, scales]: readonly Tensor[]): Float32Array {
  const { data, dtype, shape: [, width] } = values!
  if (dtype === 'float32') return data as Float32Array
  if (dtype === 'float16') return fromFloat16(data as Uint16Array)
  return Float32Array.from(data as Int8Array, (value, i) => value * (scales!.data as Float32Array)[Math.floor(i / width!)]!)
}
