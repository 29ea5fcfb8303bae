import { describe, expect, it } from 'vitest'
import { Claims } from '../../../../src/roles/server/generation/claims.ts'

const secret = new Uint8Array(32).fill(7)
const codeOf = (code: string): unknown => expect.objectContaining({ code }) as unknown

describe('claims of waiting sessions', () => {
  it('give the session to the named peer with the secret', async () => {
    const claims = new Claims<string>()
    const { claimed } = claims.expect(secret, 'peer')
    claims.claim(secret, 'peer', 'a stream')
    expect(await claimed).toBe('a stream')
  })

  it('are refused to another peer, and the session goes on waiting for its own', async () => {
    const claims = new Claims<string>()
    const { claimed } = claims.expect(secret, 'peer')
    expect(() => { claims.claim(secret, 'other', 'stolen') }).toThrow(codeOf('E_HANDOVER_CLAIM'))
    claims.claim(secret, 'peer', 'its own')
    expect(await claimed).toBe('its own')
  })

  it('are refused with another secret, and with one of another length', () => {
    const claims = new Claims<string>()
    const waiting = claims.expect(secret, 'peer')
    for (const other of [new Uint8Array(32).fill(8), new Uint8Array(0), new Uint8Array(31).fill(7), new Uint8Array(33).fill(7)])
      expect(() => { claims.claim(other, 'peer', 'guessed') }).toThrow(codeOf('E_HANDOVER_CLAIM'))
    waiting.cancel()
  })

  it('count once', () => {
    const claims = new Claims<string>()
    claims.expect(secret, 'peer')
    claims.claim(secret, 'peer', 'first')
    expect(() => { claims.claim(secret, 'peer', 'second') }).toThrow(codeOf('E_HANDOVER_CLAIM'))
  })

  it('come too late after the time is up, and the session hears of it', async () => {
    const claims = new Claims<string>({ timeoutMs: 5 })
    const { claimed } = claims.expect(secret, 'peer')
    await expect(claimed).rejects.toThrow(codeOf('E_CHANNEL_TIMEOUT'))
    expect(() => { claims.claim(secret, 'peer', 'late') }).toThrow(codeOf('E_HANDOVER_CLAIM'))
  })

  it('find nothing after the session ended', () => {
    const claims = new Claims<string>()
    claims.expect(secret, 'peer').cancel()
    expect(() => { claims.claim(secret, 'peer', 'late') }).toThrow(codeOf('E_HANDOVER_CLAIM'))
  })

  it('keep a session that ended from taking the place of a newer one with the same secret', async () => {
    const claims = new Claims<string>()
    const before = claims.expect(secret, 'peer')
    before.cancel()
    const { claimed } = claims.expect(secret, 'peer')
    before.cancel()
    claims.claim(secret, 'peer', 'a stream')
    expect(await claimed).toBe('a stream')
  })

  it('refuse a secret that is in use, one of another length, and more sessions than the bound', () => {
    const claims = new Claims<string>({ maxWaiting: 2 })
    const waiting = claims.expect(secret, 'peer')
    expect(() => claims.expect(secret, 'other')).toThrow(codeOf('E_BAD_MESSAGE'))
    expect(() => claims.expect(new Uint8Array(16), 'peer')).toThrow(codeOf('E_BAD_MESSAGE'))
    const other = claims.expect(new Uint8Array(32), 'peer')
    expect(() => claims.expect(new Uint8Array(32).fill(1), 'peer')).toThrow(codeOf('E_BAD_MESSAGE'))
    waiting.cancel()
    other.cancel()
  })
})
