import type { DType, Tensor } from '../../tensor.ts'
import type { Value } from './graph.ts'

/** The domain of onnxruntime's own operators; that of ONNX's is empty. */
export const MICROSOFT = 'com.microsoft'

/** A node attribute, by the name of the field that ONNX keeps it in; an element type is written as its number. */
export type Attribute = { readonly i: number } | { readonly f: number } | { readonly s: string } | { readonly ints: readonly number[] } | {
  readonly t: Tensor
} | { readonly dtype: DType }
export type Attributes = Readonly<Record<string, Attribute | undefined>>

/** What operators write ONNX nodes with. */
export interface Emitter {
  /** Appends a node; attributes that are undefined are left out. */
  readonly node: (opType: string, inputs: readonly string[], outputs: readonly string[], attributes?: Attributes, domain?: string) => void
  /** The ONNX name of a value. */
  readonly name: (value: Value) => string
  /** Whether anything in the program reads this value. */
  readonly uses: (value: Value) => boolean
  /** A new name for an intermediate result within one operator. */
  readonly fresh: () => string
  /** The name of a constant. */
  readonly constant: (value: Tensor) => string
  /** A program input that has this symbolic size, and on which axis. */
  readonly holderOf: (dim: string) => { readonly name: string, readonly axis: number }
}
