import { readFile } from 'node:fs/promises'
import type { GivenParameters } from '../api/operations.ts'
import { UsageError } from '../errors.ts'

export type Messages = NonNullable<GivenParameters<'generate'>['messages']>

/** Reads a JSON array of messages. The daemon checks what is in them. Throws UsageError. */
export async function readMessages (file: string): Promise<Messages> {
  let value: unknown
  try {
    value = JSON.parse((await readFile(file, 'utf8')).replace(/^\ufeff/, ''))
  } catch (error) {
    throw new UsageError(`${file} cannot be read as JSON: ${(error as Error).message}`, 'check the path and the file', error)
  }
  if (!Array.isArray(value) || value.length === 0 || !value.every(isMessage)) {
    throw new UsageError(`${file} is not an array of messages`, 'write [{"role": "user", "content": "…"}]')
  }
  return value
}

function isMessage (value: unknown): value is Messages[number] {
  const { role, content } = (value ?? {}) as { role?: unknown, content?: unknown }
  return typeof role === 'string' && (typeof content === 'string' || Array.isArray(content))
}
