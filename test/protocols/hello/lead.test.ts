import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import {
  createLead,
  createMandate,
  firstLead,
  isNewerLead,
  LeadError,
  MAX_LEAD_ADDRESSES,
  MAX_LEAD_BYTES,
  MAX_TERM,
  verifyLead
} from '../../../src/protocols/hello/index.ts'
import { MAX_MANDATE_BYTES, verifyMandate } from '../../../src/protocols/hello/mandate.ts'

const federation = 'ab'.repeat(32)
const DAY_MS = 24 * 3_600_000
const ADDRESS = '/ip4/192.0.2.1/tcp/4001'

describe('a server\'s word that it leads', () => {
  let founder: Ed25519PrivateKey
  let worker: Ed25519PrivateKey
  let other: Ed25519PrivateKey
  let scope: { founder: string, federation: string }
  const idOf = (key: Ed25519PrivateKey): string => peerIdFromPrivateKey(key).toString()

  beforeAll(async () => {
    founder = await generateKeyPair('Ed25519')
    worker = await generateKeyPair('Ed25519')
    other = await generateKeyPair('Ed25519')
    scope = { founder: idOf(founder), federation }
  })

  async function mandateFor (key: Ed25519PrivateKey, changes: object = {}, by = founder): Promise<Uint8Array> {
    return (await createMandate({ federation, peer: idOf(key), expiresAtMs: Date.now() + DAY_MS, ...changes }, by)).bytes
  }

  async function leadOf (key: Ed25519PrivateKey, mandate: Uint8Array | undefined, changes: object = {}): Promise<Uint8Array> {
    return (await createLead({ federation, term: 1, mandate, addresses: [ADDRESS], ...changes }, key)).bytes!
  }

  it('holds with the founder\'s mandate, and of the founder without one', async () => {
    const lead = await verifyLead(await leadOf(worker, await mandateFor(worker), { term: 7 }), scope)
    expect(lead).toMatchObject({ term: 7, peer: idOf(worker), addresses: [ADDRESS] })
    const last = await verifyLead(await leadOf(founder, undefined, { term: MAX_TERM }), scope)
    expect(last).toMatchObject({ term: MAX_TERM, peer: scope.founder })
  })

  it.each<[string, () => Promise<Uint8Array>]>([
    ['without a mandate', async () => await leadOf(worker, undefined)],
    ['with a mandate that is not the founder\'s', async () => await leadOf(worker, await mandateFor(worker, {}, other))],
    ['with another server\'s mandate', async () => await leadOf(worker, await mandateFor(other))],
    ['with a mandate of another federation', async () => await leadOf(worker, await mandateFor(worker, { federation: 'cd'.repeat(32) }))],
    ['with a mandate that had expired', async () => await leadOf(worker, await mandateFor(worker, { expiresAtMs: Date.now() - 1 }))],
    ['of another federation', async () => await leadOf(worker, await mandateFor(worker), { federation: 'cd'.repeat(32) })],
    ['of term 0, which the charter alone says', async () => await leadOf(founder, undefined, { term: 0 })],
    ['of a term that is too great', async () => await leadOf(founder, undefined, { term: MAX_TERM + 1 })],
    ['that is longer than any', async () => new Uint8Array(MAX_LEAD_BYTES + 1)],
    ['with a mandate that is longer than any', async () => await leadOf(worker, new Uint8Array(MAX_MANDATE_BYTES + 1))]
  ])('does not hold %s', async (_, make) => {
    await expect(make().then(async (bytes) => await verifyLead(bytes, scope))).rejects.toThrow(LeadError)
  })

  it('names no more addresses than it may', async () => {
    const addresses = Array.from({ length: MAX_LEAD_ADDRESSES + 2 }, (_, i) => `/ip4/192.0.2.1/tcp/${4001 + i}`)
    expect((await verifyLead(await leadOf(founder, undefined, { addresses }), scope)).addresses).toHaveLength(MAX_LEAD_ADDRESSES)
  })

  it('says nothing else when a byte of it was changed, and bytes that are anything else do not hold', async () => {
    const bytes = await leadOf(worker, await mandateFor(worker))
    const { bytes: _, ...said } = await verifyLead(bytes, scope)
    await fc.assert(fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const changed = new Uint8Array(bytes)
      changed[at]! ^= change
      // Bytes around the signed body may be written in more ways than one.
      const read = await verifyLead(changed, scope).catch((error: unknown) => error)
      if (!(read instanceof LeadError)) expect(read).toMatchObject(said)
    }), { numRuns: 50 })
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 600 }), async (any) => {
      await expect(verifyLead(any, scope)).rejects.toThrow(LeadError)
      await expect(verifyMandate(any, scope)).rejects.toThrow(LeadError)
    }), { numRuns: 50 })
  })

  it('counts by its term, then by the server\'s id, then by its time: of two, everybody chooses the same', () => {
    const lead = fc.record({ term: fc.nat(3), peer: fc.constantFrom('a', 'b'), issuedAtMs: fc.nat(3) })
      .map((fields) => ({ ...fields, addresses: [], bytes: new Uint8Array(0) }))
    fc.assert(fc.property(lead, lead, (a, b) => {
      const isSame = a.term === b.term && a.peer === b.peer && a.issuedAtMs === b.issuedAtMs
      expect(Number(isNewerLead(a, b)) + Number(isNewerLead(b, a))).toBe(isSame ? 0 : 1)
    }))
    const [first, second] = ['a', 'b'].map((peer) => ({ term: 1, peer, issuedAtMs: 0, addresses: [], bytes: undefined }))
    expect(isNewerLead(first!, second!)).toBe(true)
    expect(isNewerLead(second!, firstLead('z'))).toBe(true)
  })
})
