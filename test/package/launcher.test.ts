import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

const bin = join(import.meta.dirname, '../../bin')

let root: string
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-launcher-'))
  await cp(bin, join(root, 'bin'), { recursive: true })
  await writeFile(join(root, 'package.json'), '{ "type": "module" }')
})
afterEach(async () => { await rm(root, { recursive: true, force: true }) })

/** Writes files that stand for the command line in a folder of the package: each says where it is from. */
async function commandLine (folder: string, extension: string): Promise<void> {
  await mkdir(join(root, folder, 'cli'), { recursive: true })
  await mkdir(join(root, folder, 'node/process'), { recursive: true })
  await writeFile(join(root, folder, `cli/main.${extension}`), `console.log('from ${folder}')\n`)
  await writeFile(join(root, folder, `node/process/allocator.${extension}`), 'export function restartWithAllocatorSettings () {}\n')
}

/** Runs the launcher on a Node that says it is of this version. */
async function launch (version?: string): Promise<{ stdout: string, stderr: string }> {
  const pretence = `Object.defineProperty(process.versions, 'node', { value: ${JSON.stringify(version)} })`
  await writeFile(join(root, 'pretence.cjs'), version === undefined ? '' : pretence)
  return await promisify(execFile)(process.execPath, ['--require', join(root, 'pretence.cjs'), join(root, 'bin/midspan.js')])
}

describe('the launcher', { timeout: 60_000 }, () => {
  it('runs what was built where there are no sources', async () => {
    await commandLine('dist', 'js')
    expect((await launch()).stdout).toBe('from dist\n')
  })

  it('runs the sources in a clone, whatever was built there', async () => {
    await commandLine('dist', 'js')
    await commandLine('src', 'ts')
    expect((await launch()).stdout).toBe('from src\n')
  })

  it.each(['12.22.12', '20.20.2', '22.17.9'])('says in one line that Node %s is too old', async (version) => {
    await commandLine('dist', 'js')
    const failure = await launch(version).then(() => {
      throw new Error('it started')
    }, (error: unknown) => error as { stderr: string, code: number })
    expect(failure.code).toBe(1)
    expect(failure.stderr).toMatch(/^midspan: Node\.js 22\.18 or later is needed, and this is [\d.]+ \(install [^\n]+\)\n$/)
    expect(failure.stderr).toContain(version)
  })
})
