import { chmod, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadIdentity, loadOrCreateIdentity } from '../../../src/node/home/identity.ts'
import { temporaryDirectory } from '../fixture.ts'

describe('an identity', () => {
  it('is made once, whole, for its owner alone', async () => {
    const home = await temporaryDirectory()
    const path = join(home, 'identity.key')
    const key = await loadOrCreateIdentity(path)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(await readdir(home)).toEqual(['identity.key'])
    expect((await loadOrCreateIdentity(path)).equals(key)).toBe(true)
  })

  it('is made again where making it was cut short', async () => {
    const path = join(await temporaryDirectory(), 'identity.key')
    await writeFile(`${path}.tmp`, '')
    await loadOrCreateIdentity(path)
    expect(await loadIdentity(path)).toBeDefined()
  })

  it('that was put back for all to read is its owner\'s alone from then on', async () => {
    const path = join(await temporaryDirectory(), 'identity.key')
    await loadOrCreateIdentity(path)
    await chmod(path, 0o644)
    await loadIdentity(path)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
  })

  it('is refused where the file holds something else', async () => {
    const path = join(await temporaryDirectory(), 'identity.key')
    await writeFile(path, 'not a key')
    await expect(loadIdentity(path)).rejects.toMatchObject({ code: 'E_USAGE', message: expect.stringContaining(path) as string })
  })
})
