import { describe, expect, it } from 'vitest'
import { LinkedServers, MAX_LINKED_WORKERS } from '../../../src/node/daemon/linked-servers.ts'
import type { KnownAddress } from '../../../src/node/federation/membership.ts'
import type { Announcement } from '../../../src/protocols/directory/index.ts'

const leader: KnownAddress = { peerId: 'leader', addresses: ['/ip4/192.0.2.1/tcp/4001'] }

/** A peer that knows so many workers of the same blocks, and what it keeps connections to. */
function linkedTo (workers: number, isServer: boolean) {
  const found = Array.from({ length: workers }, (_, i): KnownAddress => ({ peerId: `worker ${i}`, addresses: ['/ip4/192.0.2.2/tcp/4001'] }))
  const kept: string[] = []
  const reached: string[] = []
  const linked = new LinkedServers({
    follower: {
      joined: () => [leader],
      found: () => found,
      announcements: () => found.map(({ peerId }) => ({ peer: peerId, span: { first: 1, end: 5 } } as Announcement))
    },
    links: {
      setServers: (servers) => { kept.splice(0, Infinity, ...servers.map(({ peerId }) => peerId)) },
      dialNow: () => {},
      reach: async ({ peerId }) => { await Promise.resolve(reached.push(peerId)) }
    },
    isServer,
    self: 'self'
  })
  linked.update()
  return { linked, kept, reached }
}

describe('the servers that a peer is linked to', () => {
  it('are for a client the one that it joined through and eight of each block, and another one once it is needed', async () => {
    const { linked, kept, reached } = linkedTo(20, false)
    expect(kept).toHaveLength(9)
    const other = Array.from({ length: 20 }, (_, i) => `worker ${i}`).find((peer) => !kept.includes(peer))!
    await linked.reach(kept[1]!)
    expect(reached).toEqual([])
    await linked.reach(other)
    expect(reached).toEqual([other])
    linked.update()
    expect(kept).toContain(other)
    expect(kept).toHaveLength(10)
  })

  it('are for a worker those that it hands over to, and no more than the limit', async () => {
    const { linked, kept, reached } = linkedTo(MAX_LINKED_WORKERS + 1, true)
    expect(kept).toEqual(['leader'])
    for (let i = 0; i <= MAX_LINKED_WORKERS; i++) await linked.reach(`worker ${i}`)
    expect(reached).toHaveLength(MAX_LINKED_WORKERS)
    linked.update()
    expect(kept).toHaveLength(1 + MAX_LINKED_WORKERS)
  })
})
