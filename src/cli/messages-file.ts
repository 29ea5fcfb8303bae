import type { GivenParameters } from '../api/operations.ts'
import { UsageError } from '../errors.ts'
import { readJsonFile } from './json-file.ts'

export type Messages = NonNullable<GivenParameters<'generate'>['messages']>

/** Reads a JSON array of messages. The daemon checks what is in them. Throws UsageError. */
export async function readMessages (file: string): Promise<Messages> {
  const value = await readJsonFile(file)
  if (!Array.isArray(value) || value.length === 0 || !value.every(isMessage)) {
    throw new UsageError(`${file} is not an array of messages`, 'write [{"role": "user", "content": "…"}]')
  }
  return value
}

function isMessage (value: unknown): value is Messages[number] {
  const { role, content } = (value ?? {}) as { role?: unknown, content?: unknown }
  return typeof role === 'string' && (typeof content === 'string' || Array.isArray(content))
}
