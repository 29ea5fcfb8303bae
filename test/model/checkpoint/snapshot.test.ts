import { mkdtemp, open, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { digestOf, previousSnapshot, readSnapshot, writeSnapshot, type Snapshot } from '../../../src/model/checkpoint/snapshot.ts'
import { float32, tensor } from '../../../src/tensor.ts'

let dir: string
let path: string
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'midspan-snapshot-'))
  path = join(dir, 'state.safetensors')
})
afterEach(async () => { await rm(dir, { recursive: true }) })

const at = (step: number): Snapshot => ({
  meta: { step, cursor: { epoch: 1, index: 2 }, note: 'Grüße' },
  tensors: new Map([['m', float32([2], [step, -step])], ['n', tensor('int64', [1], BigInt64Array.of(BigInt(step)))]])
})

describe('a snapshot', () => {
  it('does not exist before the first is written', async () => {
    expect(await readSnapshot(path)).toBeUndefined()
  })

  it('comes back as it was written', async () => {
    await writeSnapshot(path, at(3))
    expect(await readSnapshot(path)).toEqual({ ...at(3), fallback: false })
  })

  it('of many megabytes lets others have the thread while it is hashed', async () => {
    const [one, two] = [new Float32Array(8 * 2 ** 20), new Float32Array(3)].map((values) => float32([values.length], values))
    let turns = 0
    let hashing = true
    const count = (): void => {
      turns++
      if (hashing) setImmediate(count)
    }
    setImmediate(count)
    await digestOf('{}', new Map([['a', one!], ['b', two!]]))
    hashing = false
    expect(turns).toBeGreaterThanOrEqual(8)
  })

  it('may hold no tensors', async () => {
    await writeSnapshot(path, { meta: { a: 1 }, tensors: new Map() })
    expect((await readSnapshot(path))!.meta).toEqual({ a: 1 })
  })

  it('falls back on the one before when it is torn at any length', async () => {
    await writeSnapshot(path, at(1))
    await writeSnapshot(path, at(2))
    const whole = await readFile(path)
    for (let length = 0; length < whole.byteLength; length += 7) {
      await writeFile(path, whole)
      await truncate(path, length)
      expect(await readSnapshot(path)).toEqual({ ...at(1), fallback: true })
    }
  })

  it('falls back when a single byte of it was altered', async () => {
    await writeSnapshot(path, at(1))
    await writeSnapshot(path, at(2))
    const handle = await open(path, 'r+')
    await handle.write(Uint8Array.of(0xff), 0, 1, (await handle.stat()).size - 3)
    await handle.close()
    expect((await readSnapshot(path))!.meta.step).toBe(1)
  })

  it('survives a crash between its two renames, and one while writing', async () => {
    await writeSnapshot(path, at(1))
    await rename(path, previousSnapshot(path))
    await writeFile(`${path}.tmp`, 'half a file')
    expect(await readSnapshot(path)).toEqual({ ...at(1), fallback: true })
    await writeSnapshot(path, at(2))
    expect(await readSnapshot(path)).toEqual({ ...at(2), fallback: false })
  })

  it('is an error when all that is left is damaged', async () => {
    await writeFile(path, 'x')
    await writeFile(previousSnapshot(path), 'y')
    await expect(readSnapshot(path)).rejects.toMatchObject({ code: 'E_SNAPSHOT' })
  })
})
