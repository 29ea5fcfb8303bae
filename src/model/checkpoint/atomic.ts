import { mkdir, open, rename, rm, rmdir, stat, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'

/** Platforms on which a directory cannot be opened, and renames need no such flush. */
const cannotSyncDirectories = process.platform === 'win32'

/** Flushes the entries of a directory, so that a rename in it survives a power cut. */
async function syncDirectory (path: string): Promise<void> {
  if (cannotSyncDirectories) return
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

export interface ReplaceOptions {
  /** Called when the new file is whole, and the old one still has its name. */
  readonly beforeRename?: (() => Promise<void>) | undefined
  /** What the file's owner and others may do with it, less the process's umask; everything but running it unless given. */
  readonly mode?: number
}

/**
 * Writes a file so that a crash at any instant leaves the old one or the new one, whole: into `path.tmp`, flushed, then renamed.
 * A left-over `path.tmp` is overwritten by the next write. One writer a path at a time.
 */
export async function replaceFile (
  path: string,
  write: (handle: FileHandle) => Promise<void>,
  { beforeRename = async () => {}, mode = 0o666 }: ReplaceOptions = {}
): Promise<void> {
  const temporary = `${path}.tmp`
  const handle = await open(temporary, 'w', mode)
  try {
    await write(handle)
    await handle.sync()
  } catch (error) {
    await handle.close()
    await rm(temporary, { force: true })
    throw error
  }
  await handle.close()
  await beforeRename()
  await rename(temporary, path)
  await syncDirectory(dirname(path))
}

/**
 * Makes a directory, and those above it that are missing. Throws what the system said: Node's own way of it calls a directory missing that
 * is on a file system which can be read alone.
 */
export async function makeDirectories (path: string, mode = 0o777): Promise<void> {
  try {
    await mkdir(path, { mode })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' && dirname(path) !== path) {
      await makeDirectories(dirname(path), mode)
      await makeDirectories(path, mode)
      return
    }
    if (!await stat(path).then((found) => found.isDirectory(), () => false)) throw error
  }
}

/**
 * Makes a directory that is whole or not there: written as `path.partial`, then renamed. `path` must be absent, or an empty directory.
 * A left-over `path.partial` is replaced. `write` flushes the files that it writes.
 */
export async function createDirectory (path: string, write: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = `${path}.partial`
  await rm(temporary, { recursive: true, force: true })
  await makeDirectories(temporary)
  try {
    await write(temporary)
    await syncDirectory(temporary)
    await rmdir(path).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'ENOENT') throw error })
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw error
  }
  await syncDirectory(dirname(path))
}

/** Bytes of one call to the system, at most: from 2 GiB on, Node.js refuses to write and is aborted by a read. */
const CALL_BYTES = 2 ** 30

/** Writes all the bytes, in as many calls as the system needs. */
export async function writeFully (handle: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0
  while (done < bytes.byteLength)
    done += (await handle.write(bytes, done, Math.min(CALL_BYTES, bytes.byteLength - done))).bytesWritten
}

/** Small pieces are gathered up to this size: a call to the system for each of hundreds of small tensors costs more than the disk. */
const GATHERED_BYTES = 2 ** 20

/** Writes pieces one after another, small ones together. A piece may change once `write` has resolved. */
export class GatheringWriter {
  readonly #handle: FileHandle
  readonly #gathered = new Uint8Array(GATHERED_BYTES)
  #filled = 0

  constructor (handle: FileHandle) {
    this.#handle = handle
  }

  async write (bytes: Uint8Array): Promise<void> {
    if (bytes.byteLength > GATHERED_BYTES - this.#filled) await this.flush()
    if (bytes.byteLength > GATHERED_BYTES) return await writeFully(this.#handle, bytes)
    this.#gathered.set(bytes, this.#filled)
    this.#filled += bytes.byteLength
  }

  /** Writes what is still gathered. */
  async flush (): Promise<void> {
    await writeFully(this.#handle, this.#gathered.subarray(0, this.#filled))
    this.#filled = 0
  }
}

/** Reads exactly `target.byteLength` bytes from `position`; returns false where the file ends first. */
export async function readFully (handle: FileHandle, target: Uint8Array, position: number): Promise<boolean> {
  let done = 0
  while (done < target.byteLength) {
    const { bytesRead } = await handle.read(target, done, Math.min(CALL_BYTES, target.byteLength - done), position + done)
    if (bytesRead === 0) return false
    done += bytesRead
  }
  return true
}
