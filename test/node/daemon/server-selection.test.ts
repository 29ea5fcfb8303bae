import { describe, expect, it } from 'vitest'
import { chooseServers } from '../../../src/node/daemon/server-selection.ts'

const serversOf = (count: number, first = 1, end = 5) =>
  Array.from({ length: count }, (_, i) => ({ peer: `server ${first} ${i}`, span: { first, end } }))

describe('the servers that a client keeps connections to', () => {
  it('are all of them where each block has few', () => {
    const servers = [...serversOf(4, 1, 3), ...serversOf(8, 3, 5)]
    expect(chooseServers('client', servers)).toEqual(new Set(servers.map(({ peer }) => peer)))
  })

  it('are eight of each block where there are more, the same in any order', () => {
    const servers = [...serversOf(30, 1, 3), ...serversOf(30, 3, 5), ...serversOf(3, 5, 6)]
    const linked = chooseServers('client', servers)
    const counts = [1, 2, 3, 4, 5].map((block) =>
      servers.filter(({ peer, span: { first, end } }) => linked.has(peer) && first <= block && block < end).length)
    expect(counts).toEqual([8, 8, 8, 8, 3])
    expect(chooseServers('client', servers.toReversed())).toEqual(linked)
  })

  it('are others for each client, so that 512 clients spread over 64 servers', () => {
    const servers = serversOf(64)
    const counts = new Map<string, number>()
    for (let client = 0; client < 512; client++) {
      const linked = chooseServers(`client ${client}`, servers)
      expect(linked.size).toBe(8)
      for (const peer of linked) counts.set(peer, (counts.get(peer) ?? 0) + 1)
    }
    expect(Math.min(...servers.map(({ peer }) => counts.get(peer) ?? 0))).toBeGreaterThan(32)
    expect(Math.max(...counts.values())).toBeLessThan(96)
  })

  it('stay when a server leaves, but for one in its place', () => {
    const servers = serversOf(64)
    const before = chooseServers('client', servers)
    const [gone] = before
    const after = chooseServers('client', servers.filter(({ peer }) => peer !== gone))
    expect([...before].filter((peer) => !after.has(peer))).toEqual([gone])
    expect([...after].filter((peer) => !before.has(peer))).toHaveLength(1)
  })
})
