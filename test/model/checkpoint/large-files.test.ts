import { open } from 'node:fs/promises'
import { platform } from 'node:process'
import { describe, expect, it } from 'vitest'
import { readFully, writeFully } from '../../../src/model/checkpoint/atomic.ts'

/** More than one call to the system may move. Its pages are never touched, so that it takes no memory. */
const LARGE_BYTES = 2 ** 31 + 2 ** 12

describe.skipIf(platform === 'win32')('more than 2 GiB at once', () => {
  it('is written', async () => {
    await using file = await open('/dev/null', 'w')
    await writeFully(file, new Uint8Array(LARGE_BYTES))
  })

  it('is read, or found missing', async () => {
    await using file = await open('/dev/null', 'r')
    expect(await readFully(file, new Uint8Array(LARGE_BYTES), 0)).toBe(false)
  })
})
