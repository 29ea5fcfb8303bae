import { open, stat, type FileHandle } from 'node:fs/promises'
import { bytesOf, fromBytes, type Tensor } from '../../tensor.ts'
import { GatheringWriter, readFully, replaceFile } from './atomic.ts'
import { widen } from './conversion.ts'
import { isFloat, memoryTypeOf, storedBytes, storedTypeOf } from './dtypes.ts'
import { MissingTensorError, SafetensorsError } from './errors.ts'
import {
  byteLengthOf,
  encodeHeader,
  parseHeader,
  PREFIX_BYTES,
  readHeaderLength,
  type SafetensorsHeader,
  type StoredTensor,
  type TensorSpec
} from './header.ts'
import { readWidened, type StoredRange, type Widened } from './widening.ts'

/** The most bytes in one read: large enough for full disk speed, small enough that memory and the thread pool stay free. */
const READ_CHUNK_BYTES = 8 * 1024 * 1024

/** Tensors from this size on are read on other threads. */
const THREAD_FROM_BYTES = 1024 * 1024

/** What PyTorch's writers put into a header, and its readers look for. */
const defaultMetadata = { format: 'pt' } as const

/**
 * One safetensors file. Its header is read and checked once; tensors are read by byte range when asked for.
 * The file is opened for each read, so there is nothing to close.
 */
export class SafetensorsFile implements SafetensorsHeader {
  readonly path: string
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly sizeBytes: number

  private constructor (path: string, header: SafetensorsHeader, sizeBytes: number) {
    this.path = path
    this.metadata = header.metadata
    this.tensors = header.tensors
    this.sizeBytes = sizeBytes
  }

  /** Opens a file and checks its whole header. Throws SafetensorsError. */
  static async open (path: string): Promise<SafetensorsFile> {
    await checkReadable(path)
    return await withFile(path, async (handle) => {
      const { size } = await handle.stat()
      const prefix = new Uint8Array(Math.min(PREFIX_BYTES, size))
      await readFully(handle, prefix, 0)
      const header = new Uint8Array(readHeaderLength(prefix, size, path))
      if (!await readFully(handle, header, PREFIX_BYTES)) throw new SafetensorsError(`${path}: it shrank while its header was read`)
      return new SafetensorsFile(path, parseHeader(header, size, path), size)
    })
  }

  tensor (name: string): StoredTensor {
    const found = this.tensors.get(name)
    if (found === undefined) throw new MissingTensorError(name, this.path)
    return found
  }

  /**
   * Returns the tensor as float32, widened from F16 or BF16 and rounded from F64. Throws SafetensorsError for other types, and for values
   * that are not finite.
   */
  async read (name: string, signal?: AbortSignal): Promise<Tensor> {
    const { dtype, shape, start, bytes } = this.tensor(name)
    if (!isFloat(dtype)) throw new SafetensorsError(`${this.path}: tensor ${name} holds ${dtype} values, not real numbers`)
    signal?.throwIfAborted()
    const range = { path: this.path, start, bytes, dtype }
    const read = bytes < THREAD_FROM_BYTES ? await this.#readHere(name, range) : await readWidened(range)
    signal?.throwIfAborted()
    if ('data' in read) return { dtype: 'float32', shape, data: read.data }
    switch (read.fault) {
      case 'short':
        throw this.#cutShort(name)
      case 'not finite':
        throw new SafetensorsError(`${this.path}: tensor ${name} holds values that are NaN or infinite`, 'use an undamaged checkpoint')
      case 'unreadable':
        throw new SafetensorsError(`${this.path}: tensor ${name} cannot be read: ${read.message}`)
    }
  }

  /**
   * Returns the tensor in its stored type. Throws SafetensorsError for types that Midspan does not hold in memory (BF16, F64 and the like).
   */
  async readAsStored (name: string, signal?: AbortSignal): Promise<Tensor> {
    const { dtype, shape, start, bytes } = this.tensor(name)
    const memoryType = memoryTypeOf[dtype]
    if (memoryType === undefined)
      throw new SafetensorsError(`${this.path}: tensor ${name} holds ${dtype} values, which cannot be used as they are`)
    const buffer = new Uint8Array(bytes)
    await this.#fill(name, buffer, start, signal)
    return fromBytes(memoryType, shape, buffer)
  }

  /** Reads `length` stored bytes of a tensor from byte `offset` of it. Throws a RangeError outside the tensor. */
  async readRaw (name: string, offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    const { start, bytes } = this.tensor(name)
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0 || offset + length > bytes) {
      throw new RangeError(`bytes [${offset}, ${offset + length}) lie outside tensor ${name} of ${bytes} bytes`)
    }
    const buffer = new Uint8Array(length)
    await this.#fill(name, buffer, start + offset, signal)
    return buffer
  }

  /** Returns the stored bytes of a tensor in bounded chunks. Each chunk is valid until the next is asked for. */
  chunks (name: string, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const { start, bytes } = this.tensor(name)
    return this.#chunks(name, start, bytes, signal)
  }

  /** Reads a small tensor on this thread: another thread would take longer than reading it. */
  async #readHere (name: string, { start, bytes, dtype }: StoredRange): Promise<Widened> {
    const stored = new Uint8Array(bytes)
    await this.#fill(name, stored, start, undefined)
    const data = new Float32Array(bytes / storedBytes[dtype])
    return widen(dtype, stored, data) ? { data } : { fault: 'not finite' }
  }

  async #fill (name: string, target: Uint8Array, start: number, signal: AbortSignal | undefined): Promise<void> {
    await withFile(this.path, async (handle) => {
      for (let done = 0; done < target.byteLength; done += READ_CHUNK_BYTES) {
        signal?.throwIfAborted()
        await this.#readChunk(handle, name, target.subarray(done, done + READ_CHUNK_BYTES), start + done)
      }
    })
  }

  async * #chunks (name: string, start: number, bytes: number, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    const handle = await open(this.path, 'r')
    try {
      const buffer = new Uint8Array(Math.min(bytes, READ_CHUNK_BYTES))
      for (let done = 0; done < bytes; done += READ_CHUNK_BYTES) {
        signal?.throwIfAborted()
        const chunk = buffer.subarray(0, Math.min(READ_CHUNK_BYTES, bytes - done))
        await this.#readChunk(handle, name, chunk, start + done)
        yield chunk
      }
    } finally {
      await handle.close()
    }
  }

  async #readChunk (handle: FileHandle, name: string, target: Uint8Array, position: number): Promise<void> {
    if (!await readFully(handle, target, position)) throw this.#cutShort(name)
  }

  #cutShort (name: string): SafetensorsError {
    return new SafetensorsError(`${this.path}: it ended within tensor ${name}; it was cut short after it was opened`)
  }
}

/** Stored bytes to be written, in pieces. */
export type ByteSource = Iterable<Uint8Array> | AsyncIterable<Uint8Array>

export interface WriteOptions {
  /** String pairs for the header; `{ format: 'pt' }` unless given. */
  readonly metadata?: Readonly<Record<string, string>>
  /** Runs when the new file is whole, just before it takes its name. */
  readonly beforeRename?: () => Promise<void>
}

/**
 * Writes a file atomically from stored bytes, one tensor at a time, so that tensors need never be in memory together.
 * Wider types come first and names are sorted within a type, so that every tensor is aligned to its element.
 */
export async function writeSafetensorsFrom (
  path: string,
  specs: ReadonlyMap<string, TensorSpec>,
  bytesFor: (name: string) => ByteSource,
  { metadata = defaultMetadata, beforeRename }: WriteOptions = {}
): Promise<void> {
  const ordered = new Map([...specs].sort(([a, { dtype: x }], [b, { dtype: y }]) => storedBytes[y] - storedBytes[x] || (a < b ? -1 : 1)))
  const { head } = encodeHeader(ordered, metadata)
  await replaceFile(path, async (handle) => {
    const writer = new GatheringWriter(handle)
    await writer.write(head)
    for (const [name, spec] of ordered) {
      let written = 0
      for await (const chunk of bytesFor(name)) {
        await writer.write(chunk)
        written += chunk.byteLength
      }
      if (written !== byteLengthOf(spec))
        throw new SafetensorsError(`${path}: tensor ${name} needs ${byteLengthOf(spec)} bytes, but ${written} were given`)
    }
    await writer.flush()
  }, { beforeRename })
}

/** Writes tensors to a file atomically, each in its own type. */
export async function writeSafetensors (path: string, tensors: ReadonlyMap<string, Tensor>, options: WriteOptions = {}): Promise<void> {
  const specs = new Map([...tensors].map(([name, { dtype, shape }]) => [name, { dtype: storedTypeOf[dtype], shape }] as const))
  await writeSafetensorsFrom(path, specs, (name) => [bytesOf(tensors.get(name)!)], options)
}

/** Opening what is no file, such as a pipe, could wait for ever. */
async function checkReadable (path: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    throw new SafetensorsError(
      `${path} cannot be read: ${(error as Error).message}`,
      'check the path, its permissions and, where it is a call, its target',
      error
    )
  })
  if (!found.isFile()) throw new SafetensorsError(`${path} is no file`)
}

async function withFile<T> (path: string, use: (handle: FileHandle) => Promise<T>): Promise<T> {
  const handle = await open(path, 'r')
  try {
    return await use(handle)
  } finally {
    await handle.close()
  }
}
