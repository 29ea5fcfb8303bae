import type { PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PROTOCOL_VERSIONS, signCharter } from '../../../src/protocols/charter/index.ts'
import { Admission, clockDifference, createInvite, HelloHost, sayHello, type AdmissionPolicy, type Greeting } from '../../../src/protocols/hello/index.ts'
import { charterOf, keyOf, peerOf } from '../charter/fixture.ts'

const soon = (): AbortSignal => AbortSignal.timeout(10_000)

async function hosted (changes: Partial<AdmissionPolicy> = {}, now: () => number = Date.now) {
  const charter = await signCharter(await charterOf(1), await keyOf(1))
  const admission = new Admission({
    mode: 'invite',
    federation: charter.id,
    server: await peerOf(1),
    allow: new Set(),
    protocols: PROTOCOL_VERSIONS,
    maxClients: 3,
    ...changes
  }, undefined, now)
  const events: string[] = []
  const disk = { full: false }
  const node = { advertises: 'client' }
  const host = new HelloHost({
    agent: 'host/1', charter, admission, now,
    advertised: async () => node.advertises,
    persist: async () => {
      if (disk.full) throw new Error('no space')
      events.push('persisted')
    },
    welcomed: (_, role, agent) => { events.push(`welcomed ${role} ${agent}`) },
    left: () => { events.push('left') }
  })
  const peer: PeerId = peerIdFromString(await peerOf(2))
  const say = async (greeting: Partial<Greeting> = {}, from = peer, address = '192.0.2.1') => {
    const [client, server] = await streamPair()
    const answered = host.answer(server, from, address)
    const [said, stays] = await Promise.allSettled([
      sayHello(client, { agent: 'test\u001b[31m/1', role: 'client', ...greeting }, soon()),
      answered
    ])
    if (said.status === 'rejected') throw said.reason as Error
    return { ...said.value, stays: stays.status === 'fulfilled' && stays.value }
  }
  return { charter, admission, events, disk, node, host, peer, say }
}

describe('hello', () => {
  it('brings the charter to a peer with an invite, which is remembered before it is welcomed', async () => {
    const { charter, events, say } = await hosted()
    const invite = await createInvite(
      { federation: charter.id, addresses: [], role: 'client', expiresAtMs: Date.now() + 1000, uses: 1 },
      await keyOf(1)
    )
    expect(await say({ invite: invite.bytes })).toEqual({
      agent: 'host/1', role: 'server', charter: charter.bytes, timeMs: expect.any(Number) as number, stays: true
    })
    expect(events).toEqual(['persisted', 'welcomed client test [31m/1'])
  })

  it('welcomes nobody whose place could not be kept, and keeps it when that works again', async () => {
    const { events, disk, say } = await hosted({ mode: 'open' })
    disk.full = true
    await expect(say()).rejects.toMatchObject({ code: 'E_INTERNAL' })
    disk.full = false
    await say()
    expect(events).toEqual(['persisted', 'welcomed client test [31m/1'])
  })

  it('sends no charter to a peer that has pinned it', async () => {
    const { charter, say } = await hosted({ mode: 'open' })
    expect(await say({ federation: charter.hash })).toMatchObject({ charter: undefined })
  })

  it.each<[string, number, string]>([
    ['behind', 7_200_000, "; this machine's clock is 2 hours behind the server's, which decides"],
    ['ahead of', -80_000, "; this machine's clock is 1 minute ahead of the server's, which decides"],
    ['as', 0, '']
  ])('refuses an expired invite with what the clock of who asks is to its own: %s', async (_, aheadMs, words) => {
    const now = (): number => Date.now() + aheadMs
    const { charter, say } = await hosted({}, now)
    const expiresAtMs = now() - 1_000
    const invite = await createInvite({ federation: charter.id, addresses: [], role: 'client', expiresAtMs, uses: 1 }, await keyOf(1))
    await expect(say({ invite: invite.bytes })).rejects.toMatchObject({
      code: 'E_INVITE_EXPIRED', message: `the invite expired at ${new Date(expiresAtMs).toISOString()}${words}`
    })
  })

  it('lets its own clock decide whether an invite is good', async () => {
    const { charter, say } = await hosted({}, () => Date.now() - 7_200_000)
    const expired = Date.now() - 3_600_000
    const invite = await createInvite({ federation: charter.id, addresses: [], role: 'client', expiresAtMs: expired, uses: 1 }, await keyOf(1))
    const { timeMs } = await say({ invite: invite.bytes })
    expect(clockDifference(timeMs, Date.now())).toBe("this machine's clock is 2 hours ahead of the server's")
  })

  it('gives a place back', async () => {
    const { events, say } = await hosted({ mode: 'open' })
    await say()
    expect(await say({ leaving: true })).toMatchObject({ stays: false })
    expect(events.slice(2)).toEqual(['persisted', 'left'])
  })

  it.each([
    ['nothing to show', {}, 'E_NOT_ADMITTED', 'peer'],
    ['no invite but bytes', { invite: new Uint8Array(9) }, 'E_INVITE_INVALID', 'invite'],
    ['no hash but bytes', { federation: new Uint8Array(9) }, 'E_BAD_HELLO', 'federation'],
    ['another federation', { federation: new Uint8Array(32) }, 'E_FEDERATION', 'federation']
  ])('refuses a peer with %s, in words that it hears', async (_, greeting, code, field) => {
    const { say } = await hosted()
    await expect(say(greeting)).rejects.toMatchObject({ code, field, next: expect.any(String) as string })
  })

  it('refuses an invite whose signature is false', async () => {
    const { charter, say } = await hosted()
    const { bytes } = await createInvite(
      { federation: charter.id, addresses: [], role: 'client', expiresAtMs: Date.now() + 1000, uses: 1 },
      await keyOf(1)
    )
    const last = bytes.byteLength - 1
    const changed = Uint8Array.from(bytes)
    changed[last] = (changed[last] ?? 0) ^ 1
    await expect(say({ invite: changed })).rejects.toMatchObject({ code: 'E_INVITE_SIGNATURE' })
  })

  it('refuses a peer that says it too often', async () => {
    const { say } = await hosted({ mode: 'open' })
    for (let i = 0; i < 10; i++) await say()
    await expect(say()).rejects.toMatchObject({ code: 'E_TOO_OFTEN' })
  })

  it('takes no place and no invite for a peer whose node does not advertise the role, and names what is missing', async () => {
    const { admission, charter, node, say } = await hosted()
    const invite = await createInvite(
      { federation: charter.id, addresses: [], role: 'client', expiresAtMs: Date.now() + 1000, uses: 1 },
      await keyOf(1)
    )
    for (const [advertises, words] of [['none', /does not advertise \/midspan\/role\/client\/1\.0\.0/], ['server', /role server/]] as const) {
      node.advertises = advertises
      await expect(say({ invite: invite.bytes })).rejects.toMatchObject({
        code: 'E_ROLE', field: 'identify', message: expect.stringMatching(words) as string
      })
    }
    expect(admission.state).toMatchObject({ peers: {}, invites: {} })
    node.advertises = 'client'
    await say({ invite: invite.bytes })
  })

  it('is refused to new peers of an address that says it too often, and not to members there', async () => {
    const { say } = await hosted({ mode: 'open', maxClients: 1 })
    await say()
    let code: unknown
    for (let seed = 3; seed < 70 && code !== 'E_TOO_OFTEN'; seed++) {
      code = await say({}, peerIdFromString(await peerOf(seed))).then(() => 'welcome', (error: { code: string }) => error.code)
    }
    expect(code).toBe('E_TOO_OFTEN')
    await expect(say({}, peerIdFromString(await peerOf(99)), '192.0.2.2')).rejects.toMatchObject({ code: 'E_FEDERATION_FULL' })
    await say()
  })

  it('admits nobody for any bytes', async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 100 }), async (bytes) => {
      const { host, peer, events } = await hosted()
      const [client, server] = await streamPair()
      const answered = host.answer(server, peer, '192.0.2.1').catch(() => false)
      client.send(bytes)
      await client.close()
      expect(await answered).toBe(false)
      expect(events).toEqual([])
    }), { numRuns: 50 })
  })
})
