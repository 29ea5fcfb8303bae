import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../', import.meta.url))

/**
 * Real models and texts: $MIDSPAN_TEST_DATA, by default ../shared/data beside the repository. Tests that need one are skipped where it is
 * absent.
 */
export const dataDirectory = path.resolve(root, process.env.MIDSPAN_TEST_DATA ?? '../shared/data')

/** The path of something in the data directory. */
export function dataPath (...segments: string[]): string {
  return path.join(dataDirectory, ...segments)
}

/** For `describe.skipIf(!hasData('stories260K-hf'))`. */
export function hasData (...segments: string[]): boolean {
  return existsSync(dataPath(...segments))
}
