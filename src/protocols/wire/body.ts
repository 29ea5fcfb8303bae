import { create, toBinary } from '@bufbuild/protobuf'
import { BinaryReader } from '@bufbuild/protobuf/wire'
import { bytesOf, bytesPerElement, type DType, fromBytes, type Tensor } from '../../tensor.ts'
import { MAX_TENSOR_HEADER_BYTES, MAX_TENSOR_RANK, TENSOR_ALIGNMENT_BYTES } from './constants.ts'
import { FrameMalformedError, FrameTooLargeError } from './errors.ts'
import { decodeLength, encodeLength } from './framing.ts'
import { parseMessage } from './parse.ts'
import { BodyHeaderSchema, type TensorHeader } from './wire_pb.ts'

export interface BodyLimits {
  readonly maxMessageBytes: number
  /** Of all tensors of one frame together. */
  readonly maxTensorBytes: number
  readonly maxTensors: number
}

/** What a frame's plaintext holds: an encoded message and tensors. */
export interface Body {
  readonly message: Uint8Array
  readonly tensors: readonly Tensor[]
}

/** Element types by their number on the wire: only ever append. */
const DTYPES: readonly DType[] = ['float32', 'float16', 'int8', 'uint8', 'int32', 'uint32', 'int64', 'bool']

/** A message's tag and length, before its bytes. */
const MESSAGE_OVERHEAD_BYTES = 16

/** The most plaintext that a body within these limits takes. */
export function maxBodyBytes ({ maxMessageBytes, maxTensorBytes, maxTensors }: BodyLimits): number {
  return maxHeaderBytes({ maxMessageBytes, maxTensors }) + maxTensorBytes + TENSOR_ALIGNMENT_BYTES * (maxTensors + 1)
}

function maxHeaderBytes ({ maxMessageBytes, maxTensors }: Pick<BodyLimits, 'maxMessageBytes' | 'maxTensors'>): number {
  return MESSAGE_OVERHEAD_BYTES + maxMessageBytes + maxTensors * MAX_TENSOR_HEADER_BYTES
}

/** A body as a list of parts that refer to the tensors' own memory. Throws FrameTooLargeError above a limit. */
export function encodeBody ({ message, tensors }: Body, limits: BodyLimits): Uint8Array[] {
  checkLimit('a message', message.byteLength, limits.maxMessageBytes)
  checkLimit('a number of tensors', tensors.length, limits.maxTensors)
  checkLimit('a frame\'s tensors', tensors.reduce((sum, { data }) => sum + data.byteLength, 0), limits.maxTensorBytes)
  const header = toBinary(BodyHeaderSchema, create(BodyHeaderSchema, { message, tensors: tensors.map(headerOf) }))
  const length = encodeLength(header.byteLength)
  const headEnd = length.length + header.byteLength
  const head = new Uint8Array(tensors.length === 0 ? headEnd : aligned(headEnd))
  head.set(length)
  head.set(header, length.length)
  const parts: Uint8Array[] = [head]
  for (const [index, tensor] of tensors.entries()) {
    const bytes = bytesOf(tensor)
    parts.push(bytes)
    const padding = aligned(bytes.byteLength) - bytes.byteLength
    if (padding > 0 && index < tensors.length - 1) parts.push(new Uint8Array(padding))
  }
  return parts
}

function headerOf ({ dtype, shape, data }: Tensor): Omit<TensorHeader, '$typeName' | '$unknown'> {
  checkLimit("a tensor's rank", shape.length, MAX_TENSOR_RANK)
  if (sizeOf(dtype, shape) !== data.byteLength)
    throw new FrameMalformedError(`a ${dtype} tensor of shape [${shape.join(', ')}] is not ${data.byteLength} bytes`)
  return { dtype: DTYPES.indexOf(dtype), shape: [...shape] }
}

/** Reads a body in place: the message and the tensors are views of its bytes. Throws FrameMalformedError or FrameTooLargeError. */
export function decodeBody (bytes: Uint8Array, limits: BodyLimits): Body {
  const length = decodeLength(bytes)
  if (length === undefined) throw new FrameMalformedError('its body is empty')
  checkLimit('a body header', length.value, maxHeaderBytes(limits))
  const headEnd = length.bytes + length.value
  if (headEnd > bytes.byteLength) throw new FrameMalformedError('its body is shorter than the body\'s header')
  const headerBytes = bytes.subarray(length.bytes, headEnd)
  checkLimit('a number of tensors', tensorCount(headerBytes), limits.maxTensors)
  const header = parseMessage(BodyHeaderSchema, headerBytes, 'its body\'s header')
  checkLimit('a message', header.message.byteLength, limits.maxMessageBytes)
  let end = headEnd
  let tensorBytes = 0
  const tensors = header.tensors.map(({ dtype: number, shape }) => {
    const dtype = DTYPES[number]
    if (dtype === undefined) throw new FrameMalformedError(`its element type ${number} is unknown`)
    checkLimit('a tensor\'s rank', shape.length, MAX_TENSOR_RANK)
    const size = sizeOf(dtype, shape)
    tensorBytes += size
    checkLimit('a frame\'s tensors', tensorBytes, limits.maxTensorBytes)
    const start = aligned(end)
    end = start + size
    if (end > bytes.byteLength) throw new FrameMalformedError('its body is shorter than its tensors')
    return fromBytes(dtype, shape, bytes.subarray(start, end))
  })
  if (end !== bytes.byteLength) throw new FrameMalformedError('its body is longer than its tensors')
  return { message: header.message, tensors }
}

/**
 * How many tensors a body's header describes, without reading them: an empty description is two bytes, and an object of a hundred once it
 * is read.
 */
function tensorCount (header: Uint8Array): number {
  try {
    const reader = new BinaryReader(header)
    let count = 0
    while (reader.pos < reader.len) {
      const [field, type] = reader.tag()
      if (field === BodyHeaderSchema.field.tensors.number) count++
      reader.skip(type, field)
    }
    return count
  } catch (error) {
    throw new FrameMalformedError('its body\'s header cannot be read', error)
  }
}

/** A tensor's size in bytes; above 2^53 no longer exact, but above every limit. */
function sizeOf (dtype: DType, shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, bytesPerElement[dtype])
}

function aligned (offset: number): number {
  return Math.ceil(offset / TENSOR_ALIGNMENT_BYTES) * TENSOR_ALIGNMENT_BYTES
}

function checkLimit (what: string, size: number, limit: number): void {
  if (!(size <= limit)) throw new FrameTooLargeError(what, size, limit)
}
