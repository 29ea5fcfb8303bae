import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ReleaseSecret, type NoiseContext } from '../../../src/roles/client/release-secret.ts'
import { float32 } from '../../../src/tensor.ts'

const federation = new Uint8Array(32).fill(1)
const context: NoiseContext = { direction: 'hidden', protection: { clip: 3, noise: 0.5 }, clean: float32([2, 2], [1, 2, 3, 4]) }
const key = (secret: ReleaseSecret, changes: Partial<NoiseContext> = {}): string =>
  Buffer.from(secret.noiseKey({ ...context, ...changes })).toString('hex')

describe('the secret of a client\'s noise', () => {
  let root: string
  beforeAll(async () => { root = await mkdtemp(join(tmpdir(), 'midspan-secret-')) })
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })

  it('is made once, for its owner alone, and gives the same keys after a restart', async () => {
    const path = join(root, 'noise.key')
    const first = key(await ReleaseSecret.open(path, federation))
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect((await readFile(path)).byteLength).toBe(32)
    expect(key(await ReleaseSecret.open(path, federation))).toBe(first)
    expect(key(await ReleaseSecret.open(join(root, 'other.key'), federation))).not.toBe(first)
  })

  it('gives other keys for everything that two releases may differ in', () => {
    const secret = new ReleaseSecret(new Uint8Array(32).fill(2), federation)
    const nearly = float32([2, 2], [1, 2, 3, Math.fround(4 + 2 ** -20)])
    const keys = [
      key(secret),
      key(secret, { direction: 'gradient' }),
      key(secret, { clean: nearly }),
      key(secret, { clean: float32([4, 1], [1, 2, 3, 4]) }),
      key(secret, { protection: { clip: 3, noise: 0.25 } }),
      key(secret, { protection: { clip: 2, noise: 0.5 } }),
      key(new ReleaseSecret(new Uint8Array(32).fill(2), new Uint8Array(32).fill(3)))
    ]
    expect(new Set(keys).size).toBe(keys.length)
    expect(key(secret)).toBe(keys[0])
  })

  it('is refused when it is cut', async () => {
    const path = join(root, 'cut.key')
    await writeFile(path, new Uint8Array(5))
    await expect(ReleaseSecret.open(path, federation)).rejects.toMatchObject({ code: 'E_STATE' })
  })
})
