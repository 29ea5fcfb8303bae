import type { DType, Tensor } from '../../tensor.ts'

/** The domain of onnxruntime's own operators; that of ONNX's is empty. */
export const MICROSOFT = 'com.microsoft'

/** A node attribute, by the name of the field that ONNX keeps it in; an element type is written as its number. */
export type Attribute = { readonly i: number } | { readonly f: number } | { readonly s: string } | { readonly ints: readonly number[] } | {
  readonly t: Tensor
} | { readonly dtype: DType }
export type Attributes = Readonly<Record<string, Attribute | undefined>>
