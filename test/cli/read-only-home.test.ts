import { execFile, execFileSync } from 'node:child_process'
import { cp, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { commands } from '../../src/cli/commands.ts'
import { dataPath } from '../helpers/data.ts'
import { founded, hasStories, temporaryDirectory } from '../node/fixture.ts'
import type { Finished } from './process.ts'

/** Runs its second and later arguments where the directory that is the first can be read alone, for root too. */
const READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'

function canMount (): boolean {
  try {
    execFileSync('unshare', ['--mount', 'sh', '-c', READ_ONLY, 'sh', '/mnt', 'true'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** Runs commands in one process, for which a directory can be read alone. */
async function runReadOnly (directory: string, lines: readonly (readonly string[])[]): Promise<Array<Finished & { args: string[] }>> {
  const script = fileURLToPath(new URL('run-commands.ts', import.meta.url))
  const { stdout } = await promisify(execFile)(
    'unshare', ['--mount', 'sh', '-c', READ_ONLY, 'sh', directory, process.execPath, script, JSON.stringify(lines)]
  )
  return JSON.parse(stdout) as Array<Finished & { args: string[] }>
}

const PEER = '12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X'
const NAMED = /^midspan: \/[^\n]+: read-only file system \(choose a place that can be written to\)\n$/

describe.skipIf(!canMount() || !hasStories)('a home that can be read alone (needs the right to mount)', { timeout: 60_000 }, () => {
  it('is named by the commands that write to it, and no command says more than one line', async () => {
    const root = await temporaryDirectory()
    const [used, unused] = [join(root, 'used'), join(root, 'unused')]
    await cp((await founded()).home, used, { recursive: true })
    await mkdir(unused)
    const more: Readonly<Record<string, readonly string[]>> = {
      init: ['--model', dataPath('stories260K-hf'), '--name', 'x', '--clip', 'none'], join: [`/ip4/127.0.0.1/tcp/1/p2p/${PEER}`],
      daemon: ['--listen', '/ip4/127.0.0.1/tcp/0'], revoke: ['abcd'], remove: [PEER], entrust: [PEER], train: ['--data', root],
      evaluate: ['--data', root], generate: ['--prompt', 'x'], export: ['--out', used]
    }
    const lines = commands.filter(({ name }) => name !== 'demo').map(({ name }) => [name, ...more[name] ?? []])
    const results = await runReadOnly(root, [used, unused].flatMap((home) => lines.map((line) => [...line, '--home', home])))
    for (const { args, code, err } of results) {
      expect(err, args.join(' ')).toMatch(code === 0 ? /^$/ : /^midspan: [^\n]+\n$/)
      expect(err, args.join(' ')).not.toContain('unexpected')
      expect(code, args.join(' ')).not.toBe(1)
    }
    const naming = results.filter(({ err }) => NAMED.test(err)).map(({ args }) => `${args[0]} ${args.at(-1) === used ? 'used' : 'unused'}`)
    expect(naming).toEqual(expect.arrayContaining(['daemon used', 'init unused', 'join unused']))
  })
})
