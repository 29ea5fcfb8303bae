import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { multiaddr } from '@multiformats/multiaddr'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AnnouncementBodySchema } from '../../../src/protocols/directory/directory_pb.ts'
import {
  changeBetween,
  createAnnouncement,
  MAX_ADDRESS_BYTES,
  MAX_ADDRESSES,
  MAX_ANNOUNCEMENT_BYTES,
  MAX_FORMAT_CHARS,
  MAX_PROTOCOLS,
  MAX_REASON_CHARS,
  verifyAnnouncement,
  type Announcement
} from '../../../src/protocols/directory/index.ts'
import { parseRecord, signRecord } from '../../../src/protocols/wire/signed-record.ts'
import { keyOf } from '../charter/fixture.ts'
import { announcementOf, idOf, scope } from './fixture.ts'

const refusal = (fault: string): object => expect.objectContaining({ code: `E_ANNOUNCEMENT_${fault}` }) as object

describe('an announcement', () => {
  it('is read as it was signed, and names its peer in no address', async () => {
    const made = await announcementOf(1, { addresses: [`/ip4/192.0.2.1/tcp/4001/p2p/${await idOf(1)}`, '/dns4/example.org/tcp/4001'] })
    expect(await verifyAnnouncement(made.bytes, scope)).toEqual(made)
    expect(made.addresses).toEqual(['/ip4/192.0.2.1/tcp/4001', '/dns4/example.org/tcp/4001'])
  })

  it('is refused where another key than that of the server which it names signed it', async () => {
    const { body } = parseRecord((await announcementOf(1)).bytes)
    const forged = await signRecord('midspan/announcement/1\0', body, await keyOf(2))
    await expect(verifyAnnouncement(forged, scope)).rejects.toEqual(refusal('SIGNATURE'))
  })

  const placement = { memoryBytes: 2 ** 34, weights: 'int8', isDraining: true, reason: 'moves from 1-3 to 3-5' }

  it('says how the server came by its blocks, where it chose them by itself', async () => {
    const made = await announcementOf(1, { placement })
    expect((await verifyAnnouncement(made.bytes, scope)).placement).toEqual(placement)
    expect(changeBetween(await announcementOf(1), made)).toBe('servers')
  })

  it.each([
    ['memory beyond all numbers', { memoryBytes: 2n ** 63n }],
    ['a format of a longer name than one has', { weights: 'x'.repeat(MAX_FORMAT_CHARS + 1) }],
    ['a reason that is too long', { reason: 'x'.repeat(MAX_REASON_CHARS + 1) }]
  ])('is refused with %s', async (_, changes) => {
    const body = fromBinary(AnnouncementBodySchema, parseRecord((await announcementOf(1, { placement })).bytes).body)
    const inflated = create(AnnouncementBodySchema, { ...body, placement: { ...body.placement!, ...changes } })
    const signed = await signRecord('midspan/announcement/1\0', toBinary(AnnouncementBodySchema, inflated), await keyOf(1))
    await expect(verifyAnnouncement(signed, scope)).rejects.toEqual(refusal('INVALID'))
  })

  it('may say nothing of its load', async () => {
    const made = await announcementOf(1, { load: undefined })
    expect((await verifyAnnouncement(made.bytes, scope)).load).toBeUndefined()
  })

  it.each([
    ['of another federation', { federation: 'cd'.repeat(32) }, 'FEDERATION'],
    ['with a span that is empty', { span: { first: 3, end: 3 } }, 'SPAN'],
    ['with a span that is reversed', { span: { first: 5, end: 3 } }, 'SPAN'],
    ['with blocks before the middle', { span: { first: 0, end: 3 } }, 'SPAN'],
    ['with blocks after the middle', { span: { first: 3, end: 13 } }, 'SPAN'],
    ['with an address that leads through a relay', {
      addresses: ['/ip4/192.0.2.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit']
    }, 'INVALID'],
    ['with a load that is no number', {
      load: { sessions: 0, queuedTokens: 0, freeCacheBytes: 0, prefillTokensPerSecond: NaN, decodeTokensPerSecond: 0 }
    }, 'INVALID'],
    ['with a load below nothing', {
      load: { sessions: 0, queuedTokens: 0, freeCacheBytes: 0, prefillTokensPerSecond: 0, decodeTokensPerSecond: -1 }
    }, 'INVALID'],
    ['with a load without bounds', {
      load: { sessions: 0, queuedTokens: 0, freeCacheBytes: 0, prefillTokensPerSecond: Infinity, decodeTokensPerSecond: 0 }
    }, 'INVALID']
  ])('is refused %s', async (_, changes, fault) => {
    const { bytes } = await announcementOf(1, changes)
    await expect(verifyAnnouncement(bytes, scope)).rejects.toEqual(refusal(fault))
  })

  it('keeps as many addresses as it may have, and is refused with more', async () => {
    const addresses = Array.from({ length: MAX_ADDRESSES + 1 }, (_, index) => `/ip4/192.0.2.${index}/tcp/1`)
    const { bytes } = await announcementOf(1, { addresses })
    expect((await verifyAnnouncement(bytes, scope)).addresses).toEqual(addresses.slice(0, MAX_ADDRESSES))
    const body = fromBinary(AnnouncementBodySchema, parseRecord(bytes).body)
    const more = create(AnnouncementBodySchema, { ...body, addresses: addresses.map((address) => multiaddr(address).bytes) })
    const signed = await signRecord('midspan/announcement/1\0', toBinary(AnnouncementBodySchema, more), await keyOf(1))
    await expect(verifyAnnouncement(signed, scope)).rejects.toThrow(`it has more than ${MAX_ADDRESSES} addresses`)
  })

  const named = (length: number): string => `/dns4/${'a'.repeat(length)}/tcp/4001`
  const longestName = MAX_ADDRESS_BYTES - multiaddr(named(200)).bytes.byteLength + 200

  it.each<[string, (excess: number) => Promise<Partial<Announcement>>, RegExp]>([
    ['an address', async (excess) => ({ addresses: [named(longestName + excess)] }), /an address is too long/],
    ['its protocols', async (excess) => ({
      protocols: Object.fromEntries(Array.from({ length: MAX_PROTOCOLS + excess }, (_, index) => [`p${index}`, '1.0.0']))
    }), /it names more than 32 protocols/],
    ['its bytes', async (excess) => {
      const { bytes } = await announcementOf(1, { agent: 'a'.repeat(3000) })
      return { agent: 'a'.repeat(3000 + MAX_ANNOUNCEMENT_BYTES - bytes.byteLength + excess) }
    }, /it is too long/]
  ])('is read at the limit of %s, and refused above it', async (_, changes, reason) => {
    const [most, more] = [await announcementOf(1, await changes(0)), await announcementOf(1, await changes(1))]
    expect((await verifyAnnouncement(most.bytes, scope)).bytes).toEqual(most.bytes)
    await expect(verifyAnnouncement(more.bytes, scope)).rejects.toEqual(refusal('INVALID'))
    await expect(verifyAnnouncement(more.bytes, scope)).rejects.toThrow(reason)
  })

  it('says the same or is refused when any bit of it is changed', async () => {
    const { bytes, ...said } = await announcementOf(1)
    await fc.assert(fc.asyncProperty(fc.nat(bytes.byteLength * 8 - 1), async (bit) => {
      const changed = Uint8Array.from(bytes)
      changed[bit >> 3]! ^= 1 << (bit & 7)
      const read = await verifyAnnouncement(changed, scope).catch((error: unknown) => error)
      if (read instanceof Error) expect(read).toMatchObject({ code: expect.stringMatching(/^E_ANNOUNCEMENT_/) as string })
      else expect(read).toMatchObject(said)
    }), { numRuns: 150 })
  })

  it('is none of any other bytes, which are refused with a typed error', async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 5000 }), async (bytes) => {
      await expect(verifyAnnouncement(bytes, scope)).rejects.toMatchObject({ code: expect.stringMatching(/^E_ANNOUNCEMENT_/) as string })
    }), { numRuns: 150 })
  })

  it('comes back as it was made, whatever it says', async () => {
    const whole = fc.nat(2 ** 31)
    const details = fc.record({
      first: fc.integer({ min: 1, max: 11 }),
      length: fc.integer({ min: 1, max: 11 }),
      load: fc.record({
        sessions: whole, queuedTokens: whole, freeCacheBytes: whole,
        prefillTokensPerSecond: fc.double({ min: 0, max: 1e12, noNaN: true }),
        decodeTokensPerSecond: fc.double({ min: 0, max: 1e12, noNaN: true })
      }),
      sequence: fc.nat(2 ** 48)
    })
    await fc.assert(fc.asyncProperty(details, async ({ first, length, load, sequence }) => {
      const made = await createAnnouncement({
        federation: scope.federation,
        span: { first, end: Math.min(first + length, 12) },
        addresses: [],
        agent: '',
        protocols: {},
        load,
        sequence
      }, await keyOf(1))
      expect(await verifyAnnouncement(made.bytes, scope)).toEqual(made)
    }), { numRuns: 50 })
  })
})
