import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { createAnnouncement, type Announcement, type DirectoryScope } from '../../../src/protocols/directory/index.ts'
import { keyOf } from '../charter/fixture.ts'

export const NOW = 1_800_000_000_000
export const scope: DirectoryScope = { federation: 'ab'.repeat(32), middle: { first: 1, end: 12 } }

export const load = {
  sessions: 3, queuedTokens: 17, freeCacheBytes: 2 ** 33, prefillTokensPerSecond: 812.5, decodeTokensPerSecond: 30.25
}

/** An announcement that a directory takes in. */
export async function announcementOf (
  seed: number,
  changes: Partial<Announcement> = {},
  nowMs = NOW
): Promise<Announcement> {
  return await createAnnouncement({
    federation: scope.federation,
    span: { first: 2, end: 8 },
    addresses: ['/ip4/192.0.2.1/tcp/4001'],
    agent: 'test/1',
    protocols: { hello: '1.0.0', train: '1.0.0' },
    load,
    sequence: 1,
    ...changes
  }, await keyOf(seed), nowMs)
}

export async function idOf (seed: number): Promise<string> {
  return peerIdFromPrivateKey(await keyOf(seed)).toString()
}
