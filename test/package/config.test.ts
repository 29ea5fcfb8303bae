import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '../..')

let home: string
beforeEach(async () => { home = await mkdtemp(join(tmpdir(), 'midspan-config-')) })
afterEach(async () => { await rm(home, { recursive: true, force: true }) })

describe('config/server.yaml', { timeout: 60_000 }, () => {
  it('founds a federation where there is nothing but the repository', async () => {
    const command = ['bin/midspan.js', 'init', '--home', join(home, 's'), '--config', 'config/server.yaml', '--json']
    const { stdout } = await promisify(execFile)(process.execPath, command, { cwd: root })
    expect(JSON.parse(stdout)).toMatchObject({ federation: { name: 'ward-notes' } })
  })
})
