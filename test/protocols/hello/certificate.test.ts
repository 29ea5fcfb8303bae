import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_WEIGHT } from '../../../src/api/invite.ts'
import {
  CERTIFICATE_LIFETIME_MS,
  CertificateAdmission,
  createCertificate,
  createRevocations,
  isHalfSpent,
  MAX_REVOCATIONS_BYTES,
  MAX_REVOKED,
  verifyCertificate,
  verifyRevocations,
  type Candidate
} from '../../../src/protocols/hello/index.ts'
import { keyOf, peerOf } from '../charter/fixture.ts'

const NOW = 1_800_000_000_000
const federation = 'ab'.repeat(32)
const protocols = { hello: '1.0.0', train: '1.2.0' }

const FOUNDER = 1
const MEMBER = 2

async function certificateOf (
  { peer = MEMBER, role = 'client', of = federation, signer = FOUNDER, nowMs = NOW, weight = 1 }: {
    peer?: number, role?: 'client' | 'server', of?: string, signer?: number, nowMs?: number, weight?: number
  } = {}
): Promise<Uint8Array> {
  return (await createCertificate({ federation: of, peer: await peerOf(peer), role, weight }, await keyOf(signer), nowMs)).bytes
}

async function candidate (certificate: Uint8Array | undefined, changes: Partial<Candidate> = {}): Promise<Candidate> {
  return { peer: await peerOf(MEMBER), role: 'client', federation, protocols, invite: undefined, certificate, ...changes }
}

async function admission (now = () => NOW): Promise<CertificateAdmission> {
  return new CertificateAdmission({ federation, founder: await peerOf(FOUNDER), protocols }, now)
}

describe('admission by certificate', () => {
  it('lets a member in, and keeps nothing', async () => {
    const subject = await admission()
    expect(await subject.admit(await candidate(await certificateOf()))).toEqual({ role: 'client', changed: false })
    expect(subject.has(await peerOf(MEMBER))).toBe(true)
  })

  it('gives texts of a member the weight that its certificate says', async () => {
    const subject = await admission()
    await subject.admit(await candidate(await certificateOf({ weight: MAX_WEIGHT })))
    expect(subject.weightOf(await peerOf(MEMBER))).toBe(MAX_WEIGHT)
    expect(subject.weightOf(await peerOf(3))).toBe(1)
    const heavier = await candidate(await certificateOf({ weight: MAX_WEIGHT + 1 }))
    await expect(subject.admit(heavier)).rejects.toMatchObject({ code: 'E_CERTIFICATE_INVALID' })
  })

  it('lets the founder in without one', async () => {
    const subject = await admission()
    const founder = await candidate(undefined, { peer: await peerOf(FOUNDER), role: 'server' })
    expect(await subject.admit(founder)).toEqual({ role: 'server', changed: false })
  })

  it.each([
    ['none', async () => undefined, 'E_CERTIFICATE_MISSING'],
    ['one that is cut off', async () => (await certificateOf()).subarray(0, 40), 'E_CERTIFICATE_INVALID'],
    ['one that another peer signed', async () => await certificateOf({ signer: MEMBER }), 'E_CERTIFICATE_SIGNATURE'],
    ['one of another federation', async () => await certificateOf({ of: 'cd'.repeat(32) }), 'E_CERTIFICATE_FEDERATION'],
    ["another peer's", async () => await certificateOf({ peer: 3 }), 'E_CERTIFICATE_PEER'],
    ['one for another role', async () => await certificateOf({ role: 'server' }), 'E_CERTIFICATE_ROLE'],
    ['one that expired', async () => await certificateOf({ nowMs: NOW - CERTIFICATE_LIFETIME_MS }), 'E_CERTIFICATE_EXPIRED']
  ])('refuses a peer with %s', async (_, certificate, code) => {
    const peer = await candidate(await certificate())
    await expect((await admission()).admit(peer)).rejects.toMatchObject({ code, field: expect.stringMatching(/^certificate/) as string })
  })

  it.each([
    ['of another federation', { federation: 'cd'.repeat(32) }, 'E_FEDERATION'],
    ['that speaks another version', { protocols: { hello: '1.0.0', train: '2.0.0' } }, 'E_VERSION'],
    ['of no role', { role: 'king' }, 'E_ROLE']
  ])('refuses a peer %s, whatever its certificate', async (_, changes, code) => {
    const peer = await candidate(await certificateOf(), changes)
    await expect((await admission()).admit(peer)).rejects.toMatchObject({ code })
  })

  it('ends with the certificate, and when the founder takes it back', async () => {
    let now = NOW
    const subject = await admission(() => now)
    const peer = await candidate(await certificateOf())
    await subject.admit(peer)
    subject.revoke(new Set([peer.peer]))
    expect(subject.has(peer.peer)).toBe(false)
    await expect(subject.admit(peer)).rejects.toMatchObject({ code: 'E_CERTIFICATE_REVOKED' })
    subject.revoke(new Set())
    now = NOW + CERTIFICATE_LIFETIME_MS
    expect(subject.has(peer.peer)).toBe(false)
  })
})

describe('a certificate', () => {
  it('is to be renewed when half of its life is over', async () => {
    const certificate = await verifyCertificate(await certificateOf(), await peerOf(FOUNDER))
    expect([NOW, NOW + CERTIFICATE_LIFETIME_MS / 2].map((now) => isHalfSpent(certificate, now))).toEqual([false, true])
  })

  it('and a list of revocations refuse all other bytes with a typed error', async () => {
    const founder = await peerOf(FOUNDER)
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 600 }), async (bytes) => {
      await expect(verifyCertificate(bytes, founder)).rejects.toMatchObject({ code: expect.stringMatching(/^E_CERTIFICATE_/) as string })
      await expect(verifyRevocations(bytes, founder, federation)).rejects.toMatchObject({ code: 'E_REVOCATIONS' })
    }), { numRuns: 100 })
  })

  it('says the same or is refused when any bit of it is changed', async () => {
    const [bytes, founder] = [await certificateOf(), await peerOf(FOUNDER)]
    const { bytes: _, ...said } = await verifyCertificate(bytes, founder)
    await fc.assert(fc.asyncProperty(fc.nat(bytes.byteLength * 8 - 1), async (bit) => {
      const changed = Uint8Array.from(bytes)
      changed[bit >> 3]! ^= 1 << (bit & 7)
      const read = await verifyCertificate(changed, founder).catch((error: unknown) => error)
      if (read instanceof Error) expect(read).toMatchObject({ code: expect.stringMatching(/^E_CERTIFICATE_/) as string })
      else expect(read).toMatchObject(said)
    }), { numRuns: 100 })
  })
})

describe('a list of revocations', () => {
  it('is read as the founder signed it, and refused where somebody else did, or for another federation', async () => {
    const peers = new Set([await peerOf(3), await peerOf(4)])
    const list = await createRevocations({ federation, version: 7, peers }, await keyOf(FOUNDER))
    expect(await verifyRevocations(list.bytes, await peerOf(FOUNDER), federation)).toEqual(list)
    await expect(verifyRevocations(list.bytes, await peerOf(MEMBER), federation)).rejects.toMatchObject({ code: 'E_REVOCATIONS' })
    await expect(verifyRevocations(list.bytes, await peerOf(FOUNDER), 'cd'.repeat(32))).rejects.toMatchObject({ code: 'E_REVOCATIONS' })
  })

  it('has room for as many peers as it may name, and is refused with more, or longer', async () => {
    const founder = await peerOf(FOUNDER)
    const sized = async (count: number) => {
      const peers = new Set(Array.from({ length: count }, (_, index) => String(index).padStart(founder.length, '-')))
      return await createRevocations({ federation, version: 7, peers }, await keyOf(FOUNDER))
    }
    const list = await sized(MAX_REVOKED)
    expect(await verifyRevocations(list.bytes, founder, federation)).toEqual(list)
    await expect(verifyRevocations((await sized(MAX_REVOKED + 1)).bytes, founder, federation)).rejects.toThrow('it names too many peers')
    await expect(verifyRevocations(new Uint8Array(MAX_REVOCATIONS_BYTES + 1), founder, federation)).rejects.toThrow('it is too long')
  })
})
