import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { UsageError } from '../../../src/errors.ts'
import { LogLimit } from '../../../src/node/daemon/log-limit.ts'
import { openLog } from '../../../src/node/daemon/logging.ts'
import { temporaryDirectory } from '../fixture.ts'

async function logIn (options: Parameters<typeof openLog>[2] = {}) {
  const directory = await temporaryDirectory()
  const path = join(directory, 'daemon.log')
  const lines = async (): Promise<Array<Record<string, unknown>>> =>
    (await readFile(path, 'utf8')).trim().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>)
  return { directory, path, lines, log: openLog(path, 'info', options) }
}

describe('a log', () => {
  it('is put aside when it is full, and few are kept', async () => {
    const { directory, path, log } = await logIn({ maxBytes: 1_000 })
    for (let count = 0; count < 200; count++) log.error({ count }, 'a line that has to be read')
    expect((await readdir(directory)).sort()).toEqual(['daemon.log', ...[1, 2, 3, 4].map((number) => `daemon.log.${number}`)])
    expect((await stat(path)).size).toBeLessThan(1_000)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
  })

  it('has no stack for what is thrown on purpose, and one for a defect', async () => {
    const { log, lines } = await logIn()
    log.warn({ err: new UsageError('no such thing', 'try another', new TypeError('deep')) }, 'refused')
    log.warn({ err: Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', syscall: 'read' }) }, 'lost')
    log.error({ err: new TypeError('x is not a function') }, 'failed')
    const [refused, lost, failed] = (await lines()).map(({ err }) => err as Record<string, unknown>)
    expect(refused).toMatchObject({ code: 'E_USAGE', message: 'no such thing', cause: { stack: expect.any(String) as string } })
    expect(refused).not.toHaveProperty('stack')
    expect(lost).toEqual({ type: 'Error', code: 'ECONNRESET', message: 'read ECONNRESET' })
    expect(failed).toMatchObject({ stack: expect.stringContaining('logging.test.ts') as string })
  })

  it('has few lines of one kind about one peer, and few about many', async () => {
    const { log, lines } = await logIn()
    for (let count = 0; count < 50; count++) log.warn({ peer: 'one' }, 'a hello failed')
    for (let count = 0; count < 50; count++) log.warn({ peer: `peer ${count}` }, 'a hello failed')
    log.warn({ peer: 'one' }, 'something else')
    const written = await lines()
    expect(written.filter(({ peer, msg }) => peer === 'one' && msg === 'a hello failed')).toHaveLength(3)
    expect(written.filter(({ msg }) => msg === 'a hello failed')).toHaveLength(20)
    expect(written.at(-1)).toMatchObject({ msg: 'something else' })
  })
})

describe('the limit of a log', () => {
  it('tells what was left out, once its window is over', () => {
    let now = 0
    const limit = new LogLimit(() => now)
    const allowed = Array.from({ length: 315 }, () => limit.allows('a hello failed', 'one'))
    expect(allowed.filter(Boolean)).toHaveLength(3)
    expect(limit.takeLeftOut()).toEqual([])
    now = 60_000
    expect(limit.takeLeftOut()).toEqual([{ kind: 'a hello failed', count: 312 }])
    expect(limit.allows('a hello failed', 'one')).toBe(true)
    expect(limit.takeLeftOut()).toEqual([])
  })

  it('holds little, whatever it is asked', () => {
    const limit = new LogLimit(() => 0)
    for (let count = 0; count < 10_000; count++) limit.allows(`kind ${count}`, '')
    expect(limit.allows('kind 9999', '')).toBe(false)
  })
})
