import { execFileSync } from 'node:child_process'
import { mkdir, truncate, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { MAX_SMALL_FILE_BYTES } from '../../../src/model/checkpoint/small-file.ts'
import { homeAt, readIfPresent } from '../../../src/node/home/home.ts'
import { run } from '../../cli/helpers.ts'
import { temporaryDirectory } from '../fixture.ts'

const others: ReadonlyArray<readonly [string, (path: string) => Promise<void>]> = [
  ['a directory', async (path) => { await mkdir(path) }],
  ['a pipe', async (path) => { execFileSync('mkfifo', [path]) }],
  ['a socket', async (path) => {
    const server = createServer().listen(path)
    await new Promise((resolve) => { server.once('listening', resolve) })
    onTestFinished(() => { server.close() })
  }]
]

describe('a file of a home', () => {
  it('may be absent', async () => {
    expect(await readIfPresent('/nowhere/charter.json')).toBeUndefined()
  })

  it.each(others)('is refused at once where %s has its name', async (_, make) => {
    const path = join(await temporaryDirectory(), 'charter.json')
    await make(path)
    await expect(readIfPresent(path)).rejects.toMatchObject({ code: 'E_USAGE', message: `${path} is not a file` })
  })

  it('is refused where it is larger than any that is written', async () => {
    const path = join(await temporaryDirectory(), 'charter.json')
    await writeFile(path, '')
    await truncate(path, MAX_SMALL_FILE_BYTES + 1)
    await expect(readIfPresent(path)).rejects.toMatchObject({ code: 'E_USAGE' })
  })

  const files = ['config', 'charter', 'identity', 'servers', 'admission', 'certificate', 'lead'] as const
  it.each(files.flatMap((name) => [
    [name, 'a directory', others[0]![1]],
    [name, 'a pipe', others[1]![1]],
    [name, 'empty', async (path: string) => { await writeFile(path, '') }],
    [name, 'cut off', async (path: string) => { await writeFile(path, '{"peers": {"a"') }],
    [name, 'zeros', async (path: string) => { await writeFile(path, new Uint8Array(4096)) }]
  ] as const))('%s that is %s gives every command one line or nothing', async (name, _, make) => {
    const root = join(await temporaryDirectory(), 'home')
    await mkdir(root, { mode: 0o700 })
    await make(homeAt(root)[name])
    for (const args of [['status'], ['leave'], ['daemon']]) {
      const { code, err } = await run([...args, '--home', root])
      expect(code, err).not.toBe(0)
      expect(err).toMatch(/^midspan: [^\n]+\n$/)
      expect(err).not.toMatch(/internal error/)
    }
  })
})
