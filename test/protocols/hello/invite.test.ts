import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_WEIGHT } from '../../../src/api/invite.ts'
import { createInvite, formatInvite, parseInvite, RefusedError, verifyInvite } from '../../../src/protocols/hello/index.ts'
import { keyOf, peerOf } from '../charter/fixture.ts'

const details = {
  federation: 'ab'.repeat(32),
  addresses: ['/ip4/192.0.2.1/tcp/4001'],
  role: 'client',
  expiresAtMs: 1_900_000_000_000,
  uses: 3,
  weight: 2
} as const

describe('an invite', () => {
  it('comes back from its line', async () => {
    const invite = await createInvite(details, await keyOf(1))
    const line = formatInvite(invite)
    expect(line).toMatch(/^midspan:[A-Za-z0-9_-]+$/)
    expect(await parseInvite(` ${line}\n`)).toMatchObject({ ...details, server: await peerOf(1), nonce: invite.nonce })
  })

  it('has a weight of 1 unless another one is given, as one of a release without weights has', async () => {
    const { weight: _, ...without } = details
    const [plain, one] = [await createInvite(without, await keyOf(1)), await createInvite({ ...details, weight: 1 }, await keyOf(1))]
    expect((await verifyInvite(plain.bytes)).weight).toBe(1)
    expect(one.bytes).toHaveLength(plain.bytes.byteLength)
    const heavier = await createInvite({ ...details, weight: MAX_WEIGHT + 1 }, await keyOf(1))
    await expect(verifyInvite(heavier.bytes)).rejects.toMatchObject({ code: 'E_INVITE_INVALID' })
  })

  it('is refused where its expiry is no date', async () => {
    const invite = await createInvite({ ...details, expiresAtMs: 8.64e15 + 1 }, await keyOf(1))
    await expect(verifyInvite(invite.bytes)).rejects.toMatchObject({ code: 'E_INVITE_INVALID' })
  })

  it('is another one each time', async () => {
    const key = await keyOf(1)
    expect((await createInvite(details, key)).nonce).not.toBe((await createInvite(details, key)).nonce)
  })

  it('is refused, or says the same, when one of its bytes changed', async () => {
    const { bytes, ...said } = await createInvite(details, await keyOf(1))
    await fc.assert(fc.asyncProperty(fc.nat(bytes.byteLength - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const changed = Uint8Array.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ change
      const result = await verifyInvite(changed).catch((error: unknown) => error)
      if (!(result instanceof RefusedError)) expect(result).toEqual({ ...said, bytes: changed }) // a tag's wire type can change nothing
    }), { numRuns: 300 })
  })

  it('answers any bytes and any text with a refusal', async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
      await expect(verifyInvite(bytes)).rejects.toBeInstanceOf(RefusedError)
    }))
    await fc.assert(fc.asyncProperty(fc.string({ unit: 'binary' }), async (text) => {
      await expect(parseInvite(`midspan:${text}`)).rejects.toBeInstanceOf(RefusedError)
    }))
  })
})
