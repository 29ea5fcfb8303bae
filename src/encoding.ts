import { bytesPerElement, type DType } from './tensor.ts'

/** How hidden states are rounded for the wire. `int8` has a float32 scale a row beside its values. */
export const encodings = ['fp32', 'fp16', 'int8'] as const
export type Encoding = typeof encodings[number]

/** The element type of the values in each encoding. */
export const encodedType: Readonly<Record<Encoding, DType>> = { fp32: 'float32', fp16: 'float16', int8: 'int8' }

/** Returns the bytes of hidden states [rows, hidden] on the wire. */
export function encodedBytes (encoding: Encoding, rows: number, hidden: number): number {
  return rows * (hidden * bytesPerElement[encodedType[encoding]] + (encoding === 'int8' ? bytesPerElement.float32 : 0))
}
