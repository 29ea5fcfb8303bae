import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import type { ModelDirectory } from './directory.ts'
import type { StoredDType } from './dtypes.ts'

/** The size and hex SHA-256 of a file. */
export interface FilePrint {
  readonly bytes: number
  readonly sha256: string
}

/** The stored type, shape, size and hex SHA-256 of a tensor's stored bytes. */
export interface TensorPrint extends FilePrint {
  readonly dtype: StoredDType
  readonly shape: readonly number[]
}

/** What makes two copies of a model the same, whichever files their tensors lie in. */
export interface Fingerprint {
  readonly tensors: Readonly<Record<string, TensorPrint>>
  readonly files: Readonly<Record<string, FilePrint>>
}

/** The most bytes hashed at a time: about a millisecond of the thread, so that others get their turn between. */
const SLICE_BYTES = 1024 * 1024

/** Hashes every tensor and companion file of a directory, in bounded memory. `onProgress` gets the bytes hashed since its last call. */
export async function fingerprint (
  directory: ModelDirectory,
  onProgress: (bytes: number) => void = () => {},
  signal?: AbortSignal
): Promise<Fingerprint> {
  const tensors: Array<[string, TensorPrint]> = []
  for (const name of directory.tensorNames()) {
    const { dtype, shape } = directory.info(name)
    tensors.push([name, { dtype, shape, ...await digest(directory.chunks(name, signal), onProgress) }])
  }
  const files: Record<string, FilePrint> = {}
  for (const name of directory.files)
    files[name] = await digest(createReadStream(join(directory.path, name), { highWaterMark: SLICE_BYTES, signal }), onProgress)
  return { tensors: Object.fromEntries(tensors), files }
}

/** Returns the size and hex SHA-256 of a stream of bytes, giving way to other work after each slice. */
export async function digest (chunks: AsyncIterable<Uint8Array>, onProgress: (bytes: number) => void = () => {}): Promise<FilePrint> {
  const hash = createHash('sha256')
  let bytes = 0
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.byteLength; at += SLICE_BYTES) {
      const slice = chunk.subarray(at, at + SLICE_BYTES)
      hash.update(slice)
      bytes += slice.byteLength
      onProgress(slice.byteLength)
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
  }
  return { bytes, sha256: hash.digest('hex') }
}
