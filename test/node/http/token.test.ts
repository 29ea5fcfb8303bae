import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { carriesToken, loadOrCreateToken } from '../../../src/node/http/token.ts'
import { temporaryDirectory } from '../fixture.ts'

describe('the bearer token', () => {
  it('is made at the first start, for its owner alone, and stays', async () => {
    const path = join(await temporaryDirectory(), 'http.token')
    const token = await loadOrCreateToken(path)
    expect(token).toMatch(/^[\w-]{43}$/)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(await loadOrCreateToken(path)).toBe(token)
  })

  it('is its owner’s alone again where a copy was open to others', async () => {
    const path = join(await temporaryDirectory(), 'http.token')
    await writeFile(path, 'x'.repeat(40), { mode: 0o644 })
    expect(await loadOrCreateToken(path)).toBe('x'.repeat(40))
    expect((await stat(path)).mode & 0o777).toBe(0o600)
  })

  it('is refused without being shown where it is short, empty or several lines', async () => {
    const path = join(await temporaryDirectory(), 'http.token')
    for (const text of ['', 'short-secret', `${'y'.repeat(40)}\n${'y'.repeat(40)}`]) {
      await writeFile(path, text)
      await expect(loadOrCreateToken(path)).rejects.toThrow(expect.objectContaining({
        code: 'E_USAGE', message: expect.not.stringMatching(/short-secret|yyy/) as unknown
      }))
    }
  })

  it('is carried by the header that has it, and by no other', () => {
    const token = 'x'.repeat(43)
    expect(carriesToken(`Bearer ${token}`, token)).toBe(true)
    expect(carriesToken(`bearer  ${token}`, token)).toBe(true)
    for (const header of [undefined, '', token, `Basic ${token}`, 'Bearer ', `Bearer ${token}x`]) expect(carriesToken(header, token)).toBe(false)
    fc.assert(fc.property(fc.string(), (text) => { expect(carriesToken(text, token)).toBe(false) }))
  })
})
