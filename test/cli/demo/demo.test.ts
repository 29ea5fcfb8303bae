import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

const executable = fileURLToPath(new URL('../../../bin/midspan.js', import.meta.url))

/** Eleven processes start, and 216 questions are asked: about 20 seconds on two idle cores, minutes on busy ones. */
const timeoutMs = 240_000

/** Where the demo makes its own directory. */
let temporary: string
beforeEach(async () => { temporary = await mkdtemp(join(tmpdir(), 'demo-test-')) })
afterEach(async () => { await rm(temporary, { recursive: true, force: true }) })

function startDemo () {
  const child = spawn(process.execPath, [executable, 'demo', '--rounds', '2'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: temporary }
  })
  const output = { out: '', err: '' }
  child.stdout.on('data', (chunk: Buffer) => { output.out += chunk.toString() })
  child.stderr.on('data', (chunk: Buffer) => { output.err += chunk.toString() })
  return { child, output, closed: once(child, 'close') as Promise<[number | null]> }
}

describe('midspan demo', () => {
  it(
    'shows a federation of six processes from joining to where to go next, and leaves nothing behind',
    { timeout: timeoutMs },
    async () => {
      const { output, closed } = startDemo()
      const [code] = await closed
      expect(output.err).not.toContain('midspan: ')
      expect(code).toBe(0)
      const headings = [
        'Three clinics in one valley',
        'Who joined',
        'Before training',
        'Training together',
        'What each clinic can answer',
        'A sample, generated across the network',
        'Who saw what',
        'Where to go next'
      ]
      const at = headings.map((heading) => output.out.indexOf(`\n${heading}\n`))
      expect(at.every((position) => position >= 0), output.out).toBe(true)
      expect(at).toEqual([...at].sort((a, b) => a - b))
      expect(output.out).toMatch(/round 1\/2, 3 clients/)
      expect(output.out).toMatch(/2 rounds in/)
      expect(output.out).toMatch(/was killed: the same text to the last token; …\w+ got \d+ released states again/)
      expect(await readdir(temporary)).toEqual([])
    }
  )

  it('ends its processes and removes its files when it is interrupted', { timeout: timeoutMs }, async () => {
    const { child, output, closed } = startDemo()
    const ended = closed.then(() => { throw new Error(`it ended early: ${output.err}`) })
    while (!output.out.includes('Who joined')) await Promise.race([once(child.stdout, 'data'), ended])
    ended.catch(() => {}) // from here on it is to end
    child.kill('SIGINT')
    const [code] = await closed
    expect(code).toBe(130)
    expect(await readdir(temporary)).toEqual([])
  })
})
