import { open, stat, type FileHandle } from 'node:fs/promises'
import { createGunzip } from 'node:zlib'
import { DatasetError } from './errors.ts'

/** A line may not be longer: beyond it the file is not what it seems, and memory is at stake. */
export const MAX_LINE_BYTES = 4 * 1024 * 1024

const NEWLINE = 0x0a

/** Why a line is not read that is longer than any. */
export const TOO_LONG = `is longer than ${MAX_LINE_BYTES} bytes`

/** Why a line is not read that holds other bytes than those of UTF-8. */
export const NOT_UTF8 = 'is not UTF-8'

/** One line of a file without its end, or why it cannot be used. `line` counts from 1. */
export type Line = { readonly line: number, readonly text: string } | { readonly line: number, readonly reason: string }

/**
 * Reads a UTF-8 file, unpacked where its name ends in .gz, line by line in bounded memory. Lines that are too long, not UTF-8 or no text
 * come as reasons. Throws DatasetError for what is no readable file, and for UTF-16.
 */
export async function * readLines (path: string, signal?: AbortSignal): AsyncGenerator<Line> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let line = 1
  let held: Uint8Array[] = []
  let heldBytes = 0
  const hold = (bytes: Uint8Array): void => {
    heldBytes += bytes.byteLength
    if (heldBytes <= MAX_LINE_BYTES) held.push(bytes)
    else held = []
  }
  const take = (): Line => {
    const taken: Line = heldBytes > MAX_LINE_BYTES ? { line, reason: TOO_LONG } : decodeLine(decoder, line, Buffer.concat(held))
    held = []
    heldBytes = 0
    line++
    return taken
  }
  for await (const chunk of readBytes(path, signal)) {
    let from = 0
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      hold(chunk.subarray(from, end))
      yield take()
      from = end + 1
    }
    if (from < chunk.byteLength) hold(chunk.subarray(from))
  }
  if (heldBytes > 0) yield take()
}

/**
 * Reads a UTF-8 file, unpacked where its name ends in .gz, in pieces of text that end anywhere. Bytes that are not UTF-8 come as U+FFFD.
 * Throws as `readLines` does.
 */
export async function * readText (path: string, signal?: AbortSignal): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  for await (const chunk of readBytes(path, signal)) yield decoder.decode(chunk, { stream: true })
  yield decoder.decode()
}

async function * readBytes (
  path: string,
  signal: AbortSignal | undefined,
  check: (path: string, chunk: Uint8Array) => void = checkEncoding
): AsyncGenerator<Buffer> {
  const handle = await openFile(path)
  const file = handle.createReadStream({ highWaterMark: 256 * 1024 })
  const stream = path.toLowerCase().endsWith('.gz') ? file.pipe(createGunzip()) : file
  file.on('error', (error) => stream.destroy(error))
  let isFirst = true
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      signal?.throwIfAborted()
      if (isFirst) check(path, chunk)
      isFirst = false
      yield chunk
    }
  } catch (error) {
    if (!/^(Z_|ERR_ZLIB)/.test((error as NodeJS.ErrnoException).code ?? '')) throw error
    throw new DatasetError(`${path} cannot be unpacked: ${(error as Error).message}`, 'check that the file is whole', error)
  } finally {
    stream.destroy()
    file.destroy()
  }
}

/** Throws DatasetError for a text in UTF-16, which some editors and shells write: lines of it that are no UTF-8 are not all. */
function checkEncoding (path: string, [first, second]: Uint8Array): void {
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff))
    throw new DatasetError(`${path} is UTF-16`, 'write it as UTF-8, as iconv -f UTF-16 -t UTF-8 does')
}

/** Returns whether a file, unpacked where its name ends in .gz, is UTF-8 throughout. Throws as `readLines` does; UTF-16 is not refused. */
export async function isUtf8 (path: string, signal?: AbortSignal): Promise<boolean> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  try {
    for await (const chunk of readBytes(path, signal, () => undefined)) decoder.decode(chunk, { stream: true })
    decoder.decode()
    return true
  } catch (error) {
    if (error instanceof TypeError) return false
    throw error
  }
}

/** Throws DatasetError for what is no file that can be read: a pipe would wait for a writer. */
export async function checkFile (path: string): Promise<void> {
  await (await openFile(path)).close()
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
  if (bytes.includes(0)) return { line, reason: 'holds a zero byte, so that it is no text in UTF-8' }
  try {
    const text = decoder.decode(bytes)
    return { line, text: text.endsWith('\r') ? text.slice(0, -1) : text }
  } catch {
    return { line, reason: NOT_UTF8 }
  }
}
