import { open, stat, type FileHandle } from 'node:fs/promises'
import { createGunzip } from 'node:zlib'
import { DatasetError } from './errors.ts'

/** A line may not be longer: beyond it the file is not what it seems, and memory is at stake. */
export const MAX_LINE_BYTES = 4 * 1024 * 1024

const NEWLINE = 0x0a

/** One line of a file without its end, or why it cannot be used. `line` counts from 1. */
export type Line = { readonly line: number, readonly text: string } | { readonly line: number, readonly reason: string }

/**
 * Reads a UTF-8 file, unpacked where its name ends in .gz, line by line in bounded memory.
 * Lines that are too long or not UTF-8 come as reasons. Throws DatasetError for what is
 * no readable file.
 */
export async function * readLines (path: string, signal?: AbortSignal): AsyncGenerator<Line> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const handle = await openFile(path)
  const file = handle.createReadStream({ highWaterMark: 256 * 1024 })
  const stream = path.toLowerCase().endsWith('.gz') ? file.pipe(createGunzip()) : file
  file.on('error', (error) => stream.destroy(error))
  let line = 1
  let held: Uint8Array[] = []
  let heldBytes = 0
  const hold = (bytes: Uint8Array): void => {
    heldBytes += bytes.byteLength
    if (heldBytes <= MAX_LINE_BYTES) held.push(bytes)
    else held = []
  }
  const take = (): Line => {
    const taken: Line = heldBytes > MAX_LINE_BYTES
      ? { line, reason: `is longer than ${MAX_LINE_BYTES} bytes` }
      : decodeLine(decoder, line, Buffer.concat(held))
    held = []
    heldBytes = 0
    line++
    return taken
  }
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      signal?.throwIfAborted()
      let from = 0
      for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
        hold(chunk.subarray(from, end))
        yield take()
        from = end + 1
      }
      if (from < chunk.byteLength) hold(chunk.subarray(from))
    }
    if (heldBytes > 0) yield take()
  } catch (error) {
    if (!/^(Z_|ERR_ZLIB)/.test((error as NodeJS.ErrnoException).code ?? '')) throw error
    throw new DatasetError(`${path} cannot be unpacked: ${(error as Error).message}`, 'check that the file is whole', error)
  } finally {
    stream.destroy()
    file.destroy()
  }
}

async function openFile (path: string): Promise<FileHandle> {
  try {
    if ((await stat(path)).isFile()) return await open(path, 'r')
  } catch (error) {
    throw new DatasetError(`${path} cannot be read: ${(error as Error).message}`, 'check the path and its permissions', error)
  }
  throw new DatasetError(`${path} is no file`, 'name a file with records')
}

function decodeLine (decoder: TextDecoder, line: number, bytes: Uint8Array): Line {
  try {
    const text = decoder.decode(bytes)
    return { line, text: text.endsWith('\r') ? text.slice(0, -1) : text }
  } catch {
    return { line, reason: 'is not UTF-8' }
  }
}
