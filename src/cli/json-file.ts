import { UsageError } from '../errors.ts'
import { readUtf8 } from '../model/text/utf8.ts'

/** Reads a JSON value from a file. Throws UsageError. */
export async function readJsonFile (file: string): Promise<unknown> {
  try {
    return JSON.parse(await readUtf8(file))
  } catch (error) {
    throw new UsageError(`${file} cannot be read as JSON: ${(error as Error).message}`, 'check the path and the file', error)
  }
}

/** Reads a JSON object from a file. Throws UsageError. */
export async function readJsonObjectFile (file: string): Promise<Record<string, unknown>> {
  const value = await readJsonFile(file)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new UsageError(`${file} is not a JSON object`, 'write {…}')
  return value as Record<string, unknown>
}
