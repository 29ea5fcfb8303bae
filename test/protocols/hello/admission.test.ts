import { describe, expect, it } from 'vitest'
import {
  Admission,
  AttemptLimit,
  CERTIFICATE_LIFETIME_MS,
  createInvite,
  emptyAdmission,
  MAX_REVOKED,
  OPEN_PLACE_LAPSES_MS,
  type AdmissionPolicy,
  type Candidate,
  type Invite
} from '../../../src/protocols/hello/index.ts'
import { keyOf, peerOf } from '../charter/fixture.ts'

const NOW = 1_000_000
const federation = 'ab'.repeat(32)
const protocols = { hello: '1.0.0', train: '1.2.0' }

async function policy (changes: Partial<AdmissionPolicy> = {}): Promise<AdmissionPolicy> {
  return { mode: 'invite', federation, server: await peerOf(1), allow: new Set(), protocols, maxClients: 3, ...changes }
}

async function candidate (seed: number, changes: Partial<Candidate> = {}): Promise<Candidate> {
  return { peer: await peerOf(seed), role: 'client', federation: undefined, protocols, invite: undefined, ...changes }
}

async function invite (changes: Partial<Invite> = {}, seed = 1): Promise<Invite> {
  return await createInvite({ federation, addresses: [], role: 'client', expiresAtMs: NOW + 1000, uses: 1, ...changes }, await keyOf(seed))
}

const refusal = (code: string, field: string): object => expect.objectContaining({ code, field }) as object

async function admission (changes: Partial<AdmissionPolicy> = {}): Promise<Admission> {
  return new Admission(await policy(changes), undefined, () => NOW)
}

describe('admission', () => {
  it('lets a peer in with an invite, and again without it', async () => {
    const subject = await admission()
    expect(subject.admit(await candidate(2, { invite: await invite() }))).toEqual({ role: 'client', changed: true })
    expect(subject.admit(await candidate(2, { federation }))).toEqual({ role: 'client', changed: false })
  })

  it('remembers across a restart whom it let in and which invites were used', async () => {
    const first = await admission()
    const used = await invite()
    first.admit(await candidate(2, { invite: used }))
    const second = new Admission(await policy(), JSON.parse(JSON.stringify(first.state)) as Admission['state'], () => NOW)
    expect(second.admit(await candidate(2))).toMatchObject({ changed: false })
    const other = await candidate(3, { invite: used })
    expect(() => second.admit(other)).toThrow(refusal('E_INVITE_USED', 'invite.uses'))
  })

  it('counts each peer once against an invite for several', async () => {
    const subject = await admission()
    const shared = await invite({ uses: 2 })
    subject.admit(await candidate(2, { invite: shared }))
    subject.admit(await candidate(2, { invite: shared }))
    subject.admit(await candidate(3, { invite: shared }))
    const third = await candidate(4, { invite: shared })
    expect(() => subject.admit(third)).toThrow(refusal('E_INVITE_USED', 'invite.uses'))
  })

  it('gives texts of a peer the weight that its invite says, across a restart, and of others 1', async () => {
    const first = await admission()
    first.admit(await candidate(2, { invite: await invite({ weight: 4 }) }))
    first.admit(await candidate(3, { invite: await invite() }))
    const second = new Admission(await policy(), JSON.parse(JSON.stringify(first.state)) as Admission['state'], () => NOW)
    expect(await Promise.all([2, 3, 4].map(async (seed) => second.weightOf(await peerOf(seed))))).toEqual([4, 1, 1])
    expect(first.state.peers[await peerOf(3)]).not.toHaveProperty('weight')
  })

  it.each([
    ['an expired invite', { expiresAtMs: NOW }, 'E_INVITE_EXPIRED', 'invite.expires'],
    ['an invite to another federation', { federation: 'cd'.repeat(32) }, 'E_INVITE_FEDERATION', 'invite.federation'],
    ['an invite for another role', { role: 'server' as const }, 'E_ROLE', 'role']
  ])('refuses %s', async (_, changes, code, field) => {
    const subject = await admission()
    const peer = await candidate(2, { invite: await invite(changes) })
    expect(() => subject.admit(peer)).toThrow(refusal(code, field))
  })

  it('refuses an invite that another server signed', async () => {
    const subject = await admission()
    const peer = await candidate(2, { invite: await invite({}, 9) })
    expect(() => subject.admit(peer)).toThrow(refusal('E_INVITE_SIGNATURE', 'invite.server'))
  })

  it.each([
    ['no role', { role: 'king' }, 'E_ROLE', 'role'],
    ['another federation', { federation: 'ef'.repeat(32) }, 'E_FEDERATION', 'federation'],
    ['another major version', { protocols: { hello: '1.0.0', train: '2.0.0' } }, 'E_VERSION', 'protocols.train'],
    ['a protocol missing', { protocols: { hello: '1.0.0' } }, 'E_VERSION', 'protocols.train'],
    ['no ground at all', {}, 'E_NOT_ADMITTED', 'peer']
  ])('refuses a peer with %s', async (_, changes, code, field) => {
    const subject = await admission()
    const peer = await candidate(2, changes)
    expect(() => subject.admit(peer)).toThrow(refusal(code, field))
  })

  it('takes no invites where the allow-list decides', async () => {
    const subject = await admission({ mode: 'allow-list', allow: new Set([await peerOf(3)]) })
    const invited = await candidate(2, { invite: await invite() })
    expect(() => subject.admit(invited)).toThrow(refusal('E_NOT_ADMITTED', 'peer'))
    expect(subject.admit(await candidate(3))).toMatchObject({ role: 'client' })
  })

  it('ends with the allow-list entry it stood on', async () => {
    const before = await admission({ allow: new Set([await peerOf(3)]) })
    before.admit(await candidate(3))
    const after = new Admission(await policy(), before.state, () => NOW)
    const peer = await candidate(3)
    expect(() => after.admit(peer)).toThrow(refusal('E_NOT_ADMITTED', 'peer'))
  })

  it('is for clients alone where it is open', async () => {
    const subject = await admission({ mode: 'open' })
    expect(subject.admit(await candidate(2))).toMatchObject({ role: 'client' })
    const server = await candidate(3, { role: 'server' })
    expect(() => subject.admit(server)).toThrow(refusal('E_NOT_ADMITTED', 'peer'))
  })

  it('has no room beyond the charter\'s clients, until one leaves', async () => {
    const subject = await admission({ mode: 'open', maxClients: 1 })
    subject.admit(await candidate(2))
    const second = await candidate(3)
    expect(() => subject.admit(second)).toThrow(refusal('E_FEDERATION_FULL', 'role'))
    subject.remove(await peerOf(2))
    expect(subject.admit(second)).toMatchObject({ changed: true })
  })

  it('gives the place of a peer that came once and never again to another after a day, where it is open (issue 9, 33)', async () => {
    let now = NOW
    const subject = new Admission(await policy({ mode: 'open', maxClients: 2 }), undefined, () => now)
    const [once, member, late] = [await candidate(2), await candidate(3), await candidate(4)]
    subject.admit(once)
    subject.admit(member)
    expect(subject.admit(member)).toEqual({ role: 'client', changed: true })
    expect(subject.admit(member)).toEqual({ role: 'client', changed: false })
    now += OPEN_PLACE_LAPSES_MS - 1
    expect(() => subject.admit(late)).toThrow(refusal('E_FEDERATION_FULL', 'role'))
    now += 1
    expect(subject.admit(late)).toMatchObject({ changed: true })
    expect([once, member, late].map(({ peer }) => subject.has(peer))).toEqual([false, true, true])
    expect(() => subject.admit(once)).toThrow(refusal('E_FEDERATION_FULL', 'role'))
  })
})

describe('a removed peer', () => {
  it('does not come back with the invite that it used, nor with another made before', async () => {
    const subject = await admission()
    const [used, older] = [await invite(), await invite()]
    for (const each of [used, older]) subject.issue(each)
    subject.admit(await candidate(2, { invite: used }))
    subject.remove(await peerOf(2))
    for (const each of [used, older, undefined]) {
      const peer = await candidate(2, { invite: each })
      expect(() => subject.admit(peer)).toThrow(refusal('E_NOT_ADMITTED', 'peer'))
    }
  })

  it('does not come back with an invite for several, whenever it was made', async () => {
    let now = NOW
    const subject = new Admission(await policy(), undefined, () => now)
    const shared = await invite({ uses: 3 })
    subject.issue(shared)
    subject.admit(await candidate(2, { invite: shared }))
    subject.remove(await peerOf(2))
    const later = await invite({ uses: 3, expiresAtMs: NOW + 2000 })
    now = NOW + 1
    subject.issue(later)
    for (const each of [shared, later]) {
      const peer = await candidate(2, { invite: each })
      expect(() => subject.admit(peer)).toThrow(refusal('E_NOT_ADMITTED', 'peer'))
    }
    expect(subject.admit(await candidate(3, { invite: shared }))).toMatchObject({ changed: true })
  })

  it('comes back with an invite made for one since then, also after a restart', async () => {
    const before = await admission()
    before.admit(await candidate(2, { invite: await invite() }))
    before.remove(await peerOf(2))
    const subject = new Admission(await policy(), JSON.parse(JSON.stringify(before.state)) as Admission['state'], () => NOW + 1)
    const fresh = await invite()
    const unnoted = await candidate(2, { invite: fresh })
    expect(() => subject.admit(unnoted)).toThrow(refusal('E_NOT_ADMITTED', 'peer'))
    subject.issue(fresh)
    expect(subject.admit(await candidate(2, { invite: fresh }))).toMatchObject({ changed: true })
    expect(subject.state.removed).toEqual({})
  })

  it('comes back with an invite made since then, whatever the clock was set to meanwhile', async () => {
    let now = NOW + 3_600_000
    const subject = new Admission(await policy(), undefined, () => now)
    subject.admit(await candidate(2, { invite: await invite({ expiresAtMs: NOW + 7_200_000 }) }))
    subject.remove(await peerOf(2))
    now = NOW
    const fresh = await invite()
    subject.issue(fresh)
    expect(subject.admit(await candidate(2, { invite: fresh }))).toMatchObject({ changed: true })
  })

  it('stays out of a federation that is open', async () => {
    const subject = await admission({ mode: 'open' })
    subject.admit(await candidate(2))
    subject.remove(await peerOf(2))
    const again = await candidate(2)
    expect(() => subject.admit(again)).toThrow(refusal('E_NOT_ADMITTED', 'peer'))
  })

  it('is not one that left by itself', async () => {
    const subject = await admission({ mode: 'open' })
    subject.admit(await candidate(2))
    subject.leave(await peerOf(2))
    expect(subject.admit(await candidate(2))).toMatchObject({ changed: true })
  })
})

describe('revoked certificates', () => {
  it('are those of peers that were removed or left, until they expire or the peer comes back', async () => {
    let now = NOW
    const subject = new Admission(await policy({ mode: 'open' }), undefined, () => now)
    const [removed, left, back] = await Promise.all([2, 3, 4].map(async (seed) => await candidate(seed)))
    for (const peer of [removed!, left!, back!]) subject.admit(peer)
    expect(subject.revoked()).toEqual([])
    subject.remove(removed!.peer)
    now++
    subject.leave(left!.peer)
    now++
    subject.leave(back!.peer)
    expect(subject.revoked()).toEqual([back!.peer, left!.peer, removed!.peer])
    subject.admit(back!)
    expect(subject.revoked()).toEqual([left!.peer, removed!.peer])
    now = NOW + CERTIFICATE_LIFETIME_MS
    expect(subject.revoked()).toEqual([left!.peer])
    now = NOW + 1 + CERTIFICATE_LIFETIME_MS
    expect(subject.revoked()).toEqual([])
  })

  it('are remembered in bounded number, however many peers come and go', async () => {
    const left = Object.fromEntries(Array.from({ length: MAX_REVOKED }, (_, index) => [`peer ${index}`, NOW - MAX_REVOKED + index]))
    const subject = new Admission(await policy({ mode: 'open' }), { ...emptyAdmission(), left }, () => NOW)
    const last = await candidate(2)
    subject.admit(last)
    subject.leave(last.peer)
    expect([Object.keys(subject.state.left).length, subject.revoked().length]).toEqual([MAX_REVOKED, MAX_REVOKED])
    expect([subject.revoked()[0], subject.revoked().at(-1)]).toEqual([last.peer, 'peer 1'])
  })
})

describe('an outstanding invite', () => {
  it('is listed until it is used up, revoked or expired', async () => {
    let now = NOW
    const subject = new Admission(await policy(), undefined, () => now)
    const [shared, single] = [await invite({ uses: 2, expiresAtMs: NOW + 2000 }), await invite()]
    for (const each of [shared, single]) subject.issue(each)
    subject.admit(await candidate(2, { invite: shared }))
    expect(subject.outstanding()).toEqual([
      { id: single.nonce, role: 'client', expiresAtMs: NOW + 1000, usesLeft: 1, usedBy: [] },
      { id: shared.nonce, role: 'client', expiresAtMs: NOW + 2000, usesLeft: 1, usedBy: [await peerOf(2)] }
    ])
    expect(subject.revoke(single.nonce.slice(0, 8))).toBe(single.nonce)
    expect(subject.outstanding().map(({ id }) => id)).toEqual([shared.nonce])
    now = NOW + 2000
    expect(subject.outstanding()).toEqual([])
  })

  it('lets nobody in once it is revoked, and leaves those who used it', async () => {
    const subject = await admission()
    const shared = await invite({ uses: 3 })
    subject.issue(shared)
    subject.admit(await candidate(2, { invite: shared }))
    subject.revoke(shared.nonce)
    const late = await candidate(3, { invite: shared })
    expect(() => subject.admit(late)).toThrow(refusal('E_INVITE_REVOKED', 'invite'))
    expect(subject.admit(await candidate(2))).toMatchObject({ changed: false })
  })

  it('can be revoked by its whole id where it was never noted, and not by a beginning that several share', async () => {
    const subject = await admission()
    const old = await invite()
    expect(subject.revoke(old.nonce.slice(0, 8))).toBeUndefined()
    expect(subject.revoke(old.nonce)).toBe(old.nonce)
    const peer = await candidate(2, { invite: old })
    expect(() => subject.admit(peer)).toThrow(refusal('E_INVITE_REVOKED', 'invite'))
    for (let count = 0; count < 20; count++) subject.issue(await invite())
    expect(subject.revoke('')).toBeUndefined()
  })
})

describe('an attempt limit', () => {
  it('allows so many in a window, for each key', () => {
    let now = 0
    const limit = new AttemptLimit(2, 1000, () => now)
    expect([limit.allow('a'), limit.allow('a'), limit.allow('a'), limit.allow('b')]).toEqual([true, true, false, true])
    now = 1000
    expect(limit.allow('a')).toBe(true)
  })
})
