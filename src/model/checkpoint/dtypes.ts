import type { DType } from '../../tensor.ts'

/** Element types of the safetensors format, by the names used in its headers. */
export type StoredDType =
  | 'F64'
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'I64'
  | 'I32'
  | 'I16'
  | 'I8'
  | 'U64'
  | 'U32'
  | 'U16'
  | 'U8'
  | 'BOOL'
  | 'F8_E4M3'
  | 'F8_E5M2'

/** Stored types whose values are real numbers that `widen` turns into float32. */
export type FloatDType = 'F64' | 'F32' | 'F16' | 'BF16'

/** Stored types that float32 values can be rounded to when a file is written. */
export type SaveDType = 'F32' | 'F16' | 'BF16'

export const storedBytes: Readonly<Record<StoredDType, number>> = {
  F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U64: 8, U32: 4, U16: 2, U8: 1, BOOL: 1, F8_E4M3: 1, F8_E5M2: 1
}

export function isStoredDType (name: unknown): name is StoredDType {
  return typeof name === 'string' && Object.hasOwn(storedBytes, name)
}

export function isFloat (dtype: StoredDType): dtype is FloatDType {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'BF16' || dtype === 'F64'
}

/** The stored type of each type that Midspan holds in memory. */
export const storedTypeOf: Readonly<Record<DType, StoredDType>> = {
  float32: 'F32', float16: 'F16', int8: 'I8', uint8: 'U8', int32: 'I32', uint32: 'U32', int64: 'I64', bool: 'BOOL'
}

/** The type in memory of each stored type that has one. */
export const memoryTypeOf: Readonly<Partial<Record<StoredDType, DType>>> = {
  F32: 'float32', F16: 'float16', I8: 'int8', U8: 'uint8', I32: 'int32', U32: 'uint32', I64: 'int64', BOOL: 'bool'
}
