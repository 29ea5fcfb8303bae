/** Element types that Midspan moves between files, devices and peers. Names as in ONNX. */
export type DType = 'float32' | 'float16' | 'int8' | 'uint8' | 'int32' | 'uint32' | 'int64' | 'bool'

/** float16 values travel as their bit patterns (`Uint16Array`): arithmetic on them belongs in programs. */
export type TensorData = Float32Array | Uint16Array | Int8Array | Uint8Array | Int32Array | Uint32Array | BigInt64Array

/** A dense row-major tensor in host memory. */
export interface Tensor {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly data: TensorData
}

export const bytesPerElement: Record<DType, number> = {
  float32: 4, float16: 2, int8: 1, uint8: 1, int32: 4, uint32: 4, int64: 8, bool: 1
}

const arrayOf = {
  float32: Float32Array, float16: Uint16Array, int8: Int8Array, uint8: Uint8Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, bool: Uint8Array
} as const

/** Returns the number of elements in a tensor of this shape; 1 for a scalar. */
export function elementCount (shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

/** Returns a tensor over these values. Throws a RangeError when the shape does not hold exactly that many. */
export function tensor (dtype: DType, shape: readonly number[], data: TensorData): Tensor {
  if (elementCount(shape) !== data.length)
    throw new RangeError(`a ${dtype} tensor of shape [${shape.join(', ')}] does not hold ${data.length} values`)
  return { dtype, shape, data }
}

/** Returns a float32 tensor over these values. */
export function float32 (shape: readonly number[], values: ArrayLike<number>): Tensor {
  return tensor('float32', shape, values instanceof Float32Array ? values : Float32Array.from(values))
}

/** Returns an int32 tensor over these values. */
export function int32 (shape: readonly number[], values: ArrayLike<number>): Tensor {
  return tensor('int32', shape, values instanceof Int32Array ? values : Int32Array.from(values))
}

/** Returns the tensor's bytes, little-endian, without copying. */
export function bytesOf (value: Tensor): Uint8Array {
  return new Uint8Array(value.data.buffer, value.data.byteOffset, value.data.byteLength)
}

/** Returns a tensor over little-endian bytes; copies only where their offset is not aligned to the element. */
export function fromBytes (dtype: DType, shape: readonly number[], bytes: Uint8Array): Tensor {
  const size = bytesPerElement[dtype]
  if (bytes.byteLength !== elementCount(shape) * size)
    throw new RangeError(`a ${dtype} tensor of shape [${shape.join(', ')}] is not ${bytes.byteLength} bytes`)
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice()
  return { dtype, shape, data: new arrayOf[dtype](aligned.buffer as ArrayBuffer, aligned.byteOffset, bytes.byteLength / size) }
}

/** Returns whether every value of a float tensor is finite. Integers always are. */
export function isFiniteTensor (value: Tensor): boolean {
  return isWithinMagnitude(value, Number.MAX_VALUE)
}

/** Returns whether every value of a float32 tensor is a number of at most this magnitude, and every value of a float16 tensor is finite. */
export function isWithinMagnitude ({ dtype, data }: Tensor, most: number): boolean {
  if (dtype === 'float32') {
    // The comparison is false for NaN.
    for (let i = 0; i < data.length; i++) if (!(Math.abs(data[i] as number) <= most)) return false
  } else if (dtype === 'float16') {
    // Of the bits: the exponent of an infinity or NaN has all of its bits set. The largest other float16 is 65504.
    for (let i = 0; i < data.length; i++) if (((data[i] as number) & 0x7c00) === 0x7c00) return false
  }
  return true
}

/** Returns rows [start, end) of a tensor [rows, ...], over the same memory. */
export function tensorRows ({ dtype, shape: [rows = 0, ...row], data }: Tensor, start: number, end: number): Tensor {
  const width = data.length / Math.max(rows, 1)
  return tensor(dtype, [end - start, ...row], data.subarray(start * width, end * width))
}

/** Joins tensors of one type, [rows, ...] each, along their first axis. Throws RangeError where there are none. */
export function joinTensorRows (parts: readonly Tensor[]): Tensor {
  const [first] = parts
  if (first === undefined) throw new RangeError('there are no tensors to join')
  const all = new arrayOf[first.dtype](parts.reduce((sum, { data }) => sum + data.length, 0))
  let offset = 0
  for (const { data } of parts) {
    // The parts have one type, which the compiler cannot know.
    (all as Float32Array).set(data as Float32Array, offset)
    offset += data.length
  }
  return tensor(first.dtype, [parts.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0), ...first.shape.slice(1)], all)
}
