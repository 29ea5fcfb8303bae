import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

it('sets no flag that this version of V8 does not know', async () => {
  // V8 complains of unknown flags on its own, and goes on.
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [
    join(import.meta.dirname, '../../../src/node/process/v8-flags.ts')
  ])
  expect(stdout + stderr).toBe('')
})
