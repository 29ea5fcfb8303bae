import { lstat, stat } from 'node:fs/promises'
import type { GivenParameters } from '../api/operations.ts'
import { UsageError } from '../errors.ts'
import { replaceFile } from '../model/checkpoint/atomic.ts'
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

/**
 * Writes messages to a file that its owner alone may read, over a conversation that was written before. Throws UsageError for a file that
 * holds something else, which stays as it is.
 */
export async function writeMessages (file: string, messages: Messages): Promise<void> {
  if (await lstat(file).then(() => true, () => false) && !await holdsMessages(file))
    throw new UsageError(`${file} holds something other than a conversation`, 'name another file; this one stays as it is')
  await replaceFile(file, async (handle) => { await handle.writeFile(`${JSON.stringify(messages, undefined, 2)}\n`) }, { mode: 0o600 })
}

async function holdsMessages (file: string): Promise<boolean> {
  if (!(await stat(file)).isFile()) return false
  const value = await readJsonFile(file).catch(() => undefined)
  return Array.isArray(value) && value.every(isMessage)
}

function isMessage (value: unknown): value is Messages[number] {
  const { role, content } = (value ?? {}) as { role?: unknown, content?: unknown }
  return typeof role === 'string' && (typeof content === 'string' || Array.isArray(content))
}
