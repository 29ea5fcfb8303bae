import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { UsageError } from '../../errors.ts'

/** What is read as a whole is smaller by far: tensors are read piece by piece. */
export const MAX_SMALL_FILE_BYTES = 64 * 2 ** 20

/**
 * Returns a file's bytes, or undefined where there is no such file. Throws UsageError where something else than a file has its name, such
 * as a pipe, on which a reader would wait for ever, or where the file is too large.
 */
export async function readSmallFile (path: string): Promise<Uint8Array | undefined> {
  let file
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw code === 'ENXIO' ? notAFile(path) : error // a socket
  }
  try {
    const found = await file.stat()
    if (!found.isFile()) throw notAFile(path)
    if (found.size > MAX_SMALL_FILE_BYTES)
      throw new UsageError(`${path} has ${found.size} bytes, and ${MAX_SMALL_FILE_BYTES} are the most`, 'put back a copy of what it was')
    return await file.readFile()
  } finally {
    await file.close()
  }
}

function notAFile (path: string): UsageError {
  return new UsageError(`${path} is not a file`, 'move it away, and put back a copy of what it was')
}
