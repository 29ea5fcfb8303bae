import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'

/** Writes a file that is gone after the test. Returns its path. */
export async function temporaryFile (name: string, text: string | Uint8Array): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'midspan-file-'))
  onTestFinished(async () => { await rm(directory, { recursive: true, force: true }) })
  const path = join(directory, name)
  await writeFile(path, text)
  return path
}
