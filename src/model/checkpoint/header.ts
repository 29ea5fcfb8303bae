import { shown } from '../../errors.ts'
import { isStoredDType, storedBytes, type StoredDType } from './dtypes.ts'
import { SafetensorsError } from './errors.ts'

/** The limit of the reference implementation: a longer header is a mistake or an attack. */
const MAX_HEADER_BYTES = 100_000_000

/** The length of the header length itself. */
export const PREFIX_BYTES = 8

/** More dimensions than any model has; keeps a hostile header from costing time. */
const MAX_DIMENSIONS = 32

/** What a tensor is, without where it lies. `shape` is in elements. */
export interface TensorSpec {
  readonly dtype: StoredDType
  readonly shape: readonly number[]
}

/** Where a tensor lies in its file: `bytes` from byte `start` of the file. */
export interface StoredTensor extends TensorSpec {
  readonly start: number
  readonly bytes: number
}

export interface SafetensorsHeader {
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, StoredTensor>
}

/** Returns the bytes that a tensor takes in a file; no safe integer for a shape that no file can hold. */
export function byteLengthOf ({ dtype, shape }: TensorSpec): number {
  return shape.reduce((product, size) => product * size, storedBytes[dtype])
}

/** Checks the header length in the first 8 bytes of a file. `file` names it in errors. */
export function readHeaderLength (prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.byteLength < PREFIX_BYTES) throw new SafetensorsError(`${file}: ${fileBytes} bytes is too short for a safetensors file`)
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES).getBigUint64(0, true)
  if (length > BigInt(MAX_HEADER_BYTES))
    throw new SafetensorsError(`${file}: its header claims ${length} bytes; at most ${MAX_HEADER_BYTES} are allowed`)
  if (Number(length) > fileBytes - PREFIX_BYTES)
    throw new SafetensorsError(
      `${file}: its header claims ${length} bytes, but only ${fileBytes - PREFIX_BYTES} follow`,
      'copy or download the file again: it is cut short'
    )
  return Number(length)
}

/**
 * Reads a header, believing nothing that it says before it is checked against the size of the file: every tensor's type, shape and
 * byte range, and that together the ranges cover the data exactly once. `header` excludes the 8-byte length.
 */
export function parseHeader (header: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  const dataBytes = fileBytes - PREFIX_BYTES - header.byteLength
  const dataStart = PREFIX_BYTES + header.byteLength
  const metadata = new Map<string, string>()
  const tensors = new Map<string, StoredTensor>()
  for (const [name, entry] of Object.entries(parseJson(header, file))) {
    if (name === '__metadata__') {
      for (const [key, value] of Object.entries(objectOf(entry, `${file}: __metadata__`))) {
        if (typeof value !== 'string') throw new SafetensorsError(`${file}: the metadata value ${shown(key)} is not a string`)
        metadata.set(key, value)
      }
    } else {
      tensors.set(name, parseTensor(name, entry, dataStart, dataBytes, file))
    }
  }
  checkCoverage(tensors, dataStart, dataBytes, file)
  return { metadata, tensors }
}

/** Returns the first bytes of a file (length and header) that holds these tensors in this order, and where each will lie. */
export function encodeHeader (
  specs: ReadonlyMap<string, TensorSpec>,
  metadata: Readonly<Record<string, string>>
): { head: Uint8Array, tensors: Map<string, StoredTensor>, fileBytes: number } {
  const entries: Array<[string, unknown]> = [['__metadata__', metadata]]
  const ranges: Array<[string, TensorSpec, number, number]> = []
  let offset = 0
  for (const [name, spec] of specs) {
    const bytes = byteLengthOf(spec)
    entries.push([name, { dtype: spec.dtype, shape: spec.shape, data_offsets: [offset, offset + bytes] }])
    ranges.push([name, spec, offset, bytes])
    offset += bytes
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)))
  const headerBytes = Math.ceil(json.byteLength / 8) * 8
  if (headerBytes > MAX_HEADER_BYTES) throw new SafetensorsError(`a header of ${headerBytes} bytes is more than the format allows`)
  const head = new Uint8Array(PREFIX_BYTES + headerBytes).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(headerBytes), true)
  head.set(json, PREFIX_BYTES)
  const tensors = new Map(
    ranges.map(([name, { dtype, shape }, start, bytes]) => [name, { dtype, shape, start: head.byteLength + start, bytes }] as const)
  )
  return { head, tensors, fileBytes: head.byteLength + offset }
}

function parseJson (header: Uint8Array, file: string): Record<string, unknown> {
  if (header[0] !== 0x7b) throw new SafetensorsError(`${file}: its header does not start with '{'`, 'check that this is a safetensors file')
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(header)
    const entries = objectOf(JSON.parse(text), `${file}: its header`)
    const twice = repeatedName(text)
    if (twice !== undefined) throw new SafetensorsError(`${file}: its header names tensor ${shown(twice)} twice`)
    return entries
  } catch (error) {
    if (error instanceof SafetensorsError) throw error
    throw new SafetensorsError(`${file}: its header is not valid JSON`, undefined, error)
  }
}

/** Returns the first name that a JSON object has twice, of which JSON.parse would keep one. The text is valid JSON. */
function repeatedName (text: string): string | undefined {
  const names = new Set<string>()
  let depth = 0
  for (const { 0: token, 1: colon } of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[{}[\]]/g)) {
    if (token === '{' || token === '[') depth++
    else if (token === '}' || token === ']') depth--
    else if (depth === 1 && colon !== undefined) {
      const name = JSON.parse(token.slice(0, -colon.length)) as string
      if (names.has(name)) return name
      names.add(name)
    }
  }
  return undefined
}

function parseTensor (name: string, value: unknown, dataStart: number, dataBytes: number, file: string): StoredTensor {
  const where = `${file}: tensor ${shown(name)}`
  const { dtype, shape, data_offsets: offsets } = objectOf(value, where)
  if (!isStoredDType(dtype)) throw new SafetensorsError(`${where} has the unknown type ${shown(dtype)}`)
  if (!Array.isArray(shape) || shape.length > MAX_DIMENSIONS || !shape.every(isSize))
    throw new SafetensorsError(`${where} has the impossible shape ${shown(shape)}`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    throw new SafetensorsError(`${where} has the impossible data_offsets ${shown(offsets)}`)
  const [begin, end] = offsets as [number, number]
  if (begin > end || end > dataBytes)
    throw new SafetensorsError(
      `${where} lies at [${begin}, ${end}) of ${dataBytes} data bytes`,
      'copy or download the file again: it may be cut short'
    )
  const spec = { dtype, shape }
  const expected = byteLengthOf(spec)
  if (!Number.isSafeInteger(expected)) throw new SafetensorsError(`${where} has the impossible shape ${shown(shape)}`)
  if (end - begin !== expected)
    throw new SafetensorsError(`${where} of type ${dtype} and shape [${spec.shape.join(', ')}] takes ${expected} bytes, not ${end - begin}`)
  return { ...spec, start: dataStart + begin, bytes: expected }
}

function checkCoverage (tensors: ReadonlyMap<string, StoredTensor>, dataStart: number, dataBytes: number, file: string): void {
  const ordered = [...tensors].sort(([, a], [, b]) => a.start - b.start || a.bytes - b.bytes)
  let reached = dataStart
  for (const [name, { start, bytes }] of ordered) {
    if (start < reached) throw new SafetensorsError(`${file}: tensor ${shown(name)} overlaps another`)
    if (start > reached) throw new SafetensorsError(`${file}: ${start - reached} bytes before tensor ${shown(name)} belong to no tensor`)
    reached = start + bytes
  }
  const rest = dataStart + dataBytes - reached
  if (rest > 0) throw new SafetensorsError(`${file}: its last ${rest} bytes belong to no tensor`)
}

function objectOf (value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new SafetensorsError(`${what} is not a JSON object`)
  return value as Record<string, unknown>
}

function isSize (value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
