import { FrameMalformedError, FrameTooLargeError, FrameTruncatedError } from './errors.ts'
import type { StreamSource } from './source.ts'

/**
 * Every frame on a Midspan stream: a varint with the header's length, the header (protobuf), a payload whose length the header tells.
 * This file knows where frames begin and end; formats say what is in them.
 */
export interface FrameFormat<H> {
  readonly maxHeaderBytes: number
  /** Reads a header, refuses what is not allowed (before memory is taken), and tells how many bytes of payload follow it. */
  parse (bytes: Uint8Array): { readonly header: H, readonly payloadBytes: number }
}

/** A frame's header, then its payload in the pieces in which it arrived; `remainingBytes` of it are still to come after each. */
export type FramePart<H> =
  | { readonly header: H, readonly headerBytes: Uint8Array, readonly payloadBytes: number }
  | { readonly header: undefined, readonly piece: Uint8Array, readonly remainingBytes: number }

/** The bytes that lead a frame. */
export function encodeHead (header: Uint8Array): Uint8Array {
  const length = encodeLength(header.byteLength)
  const head = new Uint8Array(length.length + header.byteLength)
  head.set(length)
  head.set(header, length.length)
  return head
}

/** A length as a varint (base 128, least significant group first). */
export function encodeLength (value: number): number[] {
  const bytes: number[] = []
  let rest = value
  for (; rest >= 0x80; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80)
  bytes.push(rest)
  return bytes
}

/** Splits a stream into frames. Ends where the stream ends between two frames; throws FrameTruncatedError where it ends within one. */
export async function * decodeFrames<H> (source: StreamSource, format: FrameFormat<H>): AsyncGenerator<FramePart<H>> {
  for (;;) {
    const headerBytes = await readHeader(source, format.maxHeaderBytes)
    if (headerBytes === undefined) return
    const { header, payloadBytes } = format.parse(headerBytes)
    yield { header, headerBytes, payloadBytes }
    for (let remainingBytes = payloadBytes; remainingBytes > 0;) {
      const chunk = await readOrThrow(source)
      const piece = chunk.byteLength > remainingBytes ? chunk.subarray(0, remainingBytes) : chunk
      if (piece !== chunk) source.unread(chunk.subarray(remainingBytes))
      remainingBytes -= piece.byteLength
      yield { header: undefined, piece, remainingBytes }
    }
  }
}

async function readHeader (source: StreamSource, maxBytes: number): Promise<Uint8Array | undefined> {
  let bytes = await source.read()
  if (bytes === undefined) return undefined
  let length = decodeLength(bytes)
  while (length === undefined) {
    bytes = joined(bytes, await readOrThrow(source))
    length = decodeLength(bytes)
  }
  if (length.value > maxBytes) throw new FrameTooLargeError('a frame header', length.value, maxBytes)
  source.unread(bytes.subarray(length.bytes))
  return await readExactly(source, length.value)
}

async function readExactly (source: StreamSource, size: number): Promise<Uint8Array> {
  if (size === 0) return new Uint8Array(0)
  const first = await readOrThrow(source)
  source.unread(first.subarray(size))
  if (first.byteLength >= size) return first.subarray(0, size)
  const bytes = new Uint8Array(size)
  bytes.set(first)
  for (let filled = first.byteLength; filled < size;) {
    const chunk = await readOrThrow(source)
    const part = chunk.subarray(0, size - filled)
    source.unread(chunk.subarray(part.byteLength))
    bytes.set(part, filled)
    filled += part.byteLength
  }
  return bytes
}

async function readOrThrow (source: StreamSource): Promise<Uint8Array> {
  const chunk = await source.read('within a frame')
  if (chunk === undefined) throw new FrameTruncatedError('within a frame')
  return chunk
}

function joined (first: Uint8Array, second: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(first.byteLength + second.byteLength)
  bytes.set(first)
  bytes.set(second, first.byteLength)
  return bytes
}

/** Four groups of seven bits hold any length that a header or body may have. */
const MAX_LENGTH_BYTES = 4

/** The varint that bytes begin with, or undefined where it is incomplete. Throws FrameMalformedError where it is too long. */
export function decodeLength (bytes: Uint8Array): { readonly value: number, readonly bytes: number } | undefined {
  let value = 0
  for (let index = 0; index < MAX_LENGTH_BYTES; index++) {
    const byte = bytes[index]
    if (byte === undefined) return undefined
    value |= (byte & 0x7f) << (7 * index)
    if (byte < 0x80) return { value, bytes: index + 1 }
  }
  throw new FrameMalformedError('its length is not a number')
}
