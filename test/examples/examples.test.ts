import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'

const examples = join(import.meta.dirname, '../../examples')

/** Runs an example as `npm run example` does. Returns its standard output. */
async function output (file: string): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, ['--conditions=midspan-source', join(examples, file)])
  return stdout
}

describe('the examples', { timeout: 120_000 }, () => {
  it('train two clients together and export an adapter', async () => {
    const text = await output('train-together.ts')
    expect(text).toMatch(/client 1, round 5: loss \d+\.\d+ with 2 clients/)
    expect(text).toMatch(/A PEFT adapter of \d+ tensors, as of round 6/)
  })

  it('measure a task of one’s own', async () => {
    expect(await output('custom-evaluation.ts')).toMatch(/exact-match: [01]\.\d\d \([01]\.\d\d to [01]\.\d\d\) over 2 questions/)
  })

  it('stream the tokens of a text', async () => {
    expect(await output('stream-tokens.ts')).toMatch(/^On Monday .+\n\d+ tokens, [\d.]+ a second\n$/s)
  })
})
