import { multiaddr } from '@multiformats/multiaddr'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { addressKey, siteOf } from '../../../src/node/network/address-key.ts'
import { InboundLimits } from '../../../src/node/network/inbound-limits.ts'
import { chooseInviteAddresses } from '../../../src/node/network/invite-addresses.ts'
import { missingTransport } from '../../../src/node/network/transports.ts'

function limitsOf (maxConnections: number) {
  const clock = { nowMs: 0 }
  const limits = new InboundLimits({ maxConnections, now: () => clock.nowMs, later: () => () => {} })
  const closed: string[] = []
  let count = 0
  const arrive = (key: string, id = `${key}#${count++}`): string | undefined =>
    limits.arrive(id, key, () => { closed.push(id) }) ? id : undefined
  const stranger = (key: string, peer = `peer ${count}`): string | undefined => {
    const id = arrive(key)
    if (id === undefined) return undefined
    limits.awaitTurn(id, () => { limits.identify(id, peer) })
    return id
  }
  return { clock, limits, closed, arrive, stranger }
}

describe('inbound limits', () => {
  it('let a silent connection make room at once, and one that talks after a second', () => {
    const { clock, closed, arrive, stranger } = limitsOf(300)
    const silent = Array.from({ length: 16 }, () => arrive('a'))
    expect(stranger('a')).toBeDefined()
    expect(closed).toEqual([silent[0]])
    for (let count = 0; count < 15; count++) stranger('a')
    expect(stranger('a')).toBeUndefined()
    clock.nowMs = 1_000
    expect(stranger('a')).toBeDefined()
  })

  it('give an address with few connections room from the one with most', () => {
    const { clock, closed, stranger } = limitsOf(16)
    for (let count = 0; count < 4; count++) stranger('crowd')
    clock.nowMs = 2_000
    expect(stranger('alone')).toBeDefined()
    expect(closed).toEqual(['crowd#0'])
  })

  it('keep places for members, who are closed for nobody', () => {
    const { clock, closed, limits, stranger } = limitsOf(8)
    for (let count = 0; count < 7; count++) {
      stranger(`home ${count}`, `member ${count}`)
      limits.greet(`member ${count}`)
    }
    expect(stranger('street')).toBeDefined()
    clock.nowMs = 5_000
    expect(stranger('home 1', 'member 7')).toBeDefined()
    limits.greet('member 7')
    expect(closed).toEqual(['street#7'])
    expect(stranger('street')).toBeUndefined()
  })

  it('give the last place of strangers to an address with none, from the one with most, though all came just now', () => {
    const { closed, stranger } = limitsOf(16)
    for (let count = 0; count < 4; count++) stranger('crowd')
    expect(stranger('alone')).toBeDefined()
    expect(closed).toEqual(['crowd#0'])
    expect(stranger('crowd')).toBeUndefined()
  })

  it('count the addresses of one site together where there is no room, since each costs it nothing', () => {
    const { closed, stranger } = limitsOf(16)
    for (let count = 0; count < 4; count++) stranger(`2001:db8:1:${count}::/64`)
    expect(stranger('2001:db8:2:0::/64')).toBeDefined()
    expect(closed).toEqual(['2001:db8:1:0::/64#0'])
    expect(stranger('2001:db8:1:9::/64')).toBeUndefined()
  })

  it('begin no handshake of a connection that is gone', () => {
    const { limits, arrive } = limitsOf(300)
    const begun: string[] = []
    const ids = Array.from({ length: 12 }, () => arrive('a') ?? '')
    for (const id of ids) limits.awaitTurn(id, () => { begun.push(id) })
    expect(begun).toEqual(ids.slice(0, 10))
    for (const id of ids) limits.leave(id)
    expect(limits.waiting).toBe(0)
  })

  it('never hold more than they may, whoever comes', () => {
    fc.assert(fc.property(fc.array(fc.tuple(fc.nat(5), fc.nat(1500), fc.boolean()), { maxLength: 200 }), (arrivals) => {
      const { clock, closed, limits, stranger } = limitsOf(12)
      const open = new Set<string>()
      for (const [address, laterMs, isMember] of arrivals) {
        clock.nowMs += laterMs
        const id = stranger(`address ${address}`, `peer of ${address} ${isMember}`)
        if (id !== undefined) open.add(id)
        if (isMember) limits.greet(`peer of ${address} ${isMember}`)
        for (const each of closed.splice(0)) open.delete(each)
        expect(open.size).toBeLessThanOrEqual(12)
      }
    }))
  })
})

describe('the key of an address', () => {
  it.each([
    ['/ip4/192.0.2.7/tcp/1', '192.0.2.7'],
    ['/ip6/2001:db8:1:2:3:4:5:6/tcp/1', '2001:db8:1:2::/64'],
    ['/ip6/2001:db8:1:2::9/tcp/1', '2001:db8:1:2::/64'],
    ['/ip6/::1/tcp/1', '0:0:0:0::/64'],
    ['/ip6/::ffff:192.0.2.7/tcp/1', '192.0.2.7'],
    ['/ip6/::ffff:c000:207/tcp/1', '192.0.2.7'],
    ['/ip6/2001:db8::/tcp/1', '2001:db8:0:0::/64'],
    ['/dns4/example.org/tcp/1', 'other']
  ])('%s is %s', (address, key) => {
    expect(addressKey(multiaddr(address))).toBe(key)
  })

  it.each([['192.0.2.7', '192.0.2.7'], ['2001:db8:1:2::/64', '2001:db8:1::/48'], ['other', 'other']])('%s is of the site %s', (key, site) => {
    expect(siteOf(key)).toBe(site)
  })

  it('is one for each /64 network', () => {
    const groupsOf = (length: number) => fc.array(fc.nat(0xffff), { minLength: length, maxLength: length })
    fc.assert(fc.property(groupsOf(8), groupsOf(4),
      (groups, others) => {
        const keyOf = (parts: readonly number[]): string =>
          addressKey(multiaddr(`/ip6/${parts.map((part) => part.toString(16)).join(':')}/tcp/1`))
        expect(keyOf([...groups.slice(0, 4), ...others])).toBe(keyOf(groups))
        expect(keyOf([(groups[0] as number) ^ 1, ...groups.slice(1)])).not.toBe(keyOf(groups))
      }))
  })
})

describe('the addresses of an invite', () => {
  const choose = (...addresses: string[]) => {
    const { addresses: chosen, warning } = chooseInviteAddresses(addresses.map((address) => multiaddr(address)))
    return { chosen: chosen.map(String), warning }
  }

  it('are those that reach farthest, whatever order the interfaces have', () => {
    const bridges = Array.from({ length: 9 }, (_, index) => `/ip4/172.17.${index}.1/tcp/4001`)
    const { chosen, warning } = choose('/ip4/127.0.0.1/tcp/4001', ...bridges, '/ip6/fe80::1/tcp/4001', '/ip4/8.8.4.4/tcp/4001')
    expect(chosen).toEqual(['/ip4/8.8.4.4/tcp/4001', ...bridges.slice(0, 4)])
    expect(warning).toMatch(/no room for .*172\.17\.8\.1/)
  })

  it.each([
    ['this machine alone', ['/ip4/127.0.0.1/tcp/1', '/ip6/::1/tcp/1']],
    ['own network alone', ['/ip4/127.0.0.1/tcp/1', '/ip4/192.168.1.4/tcp/1']],
    ['no address', []]
  ])('warn where they reach %s', (words, addresses) => {
    expect(choose(...addresses).warning).toContain(words)
  })

  it('need no warning where a name or a public address is announced', () => {
    expect(choose('/dns4/example.org/tcp/4001', '/ip4/127.0.0.1/tcp/1')).toEqual({
      chosen: ['/dns4/example.org/tcp/4001'],
      warning: undefined
    })
  })
})

describe('an address that needs another transport', () => {
  it.each([
    ['/ip4/192.0.2.1/udp/4001/quic-v1', 'QUIC'],
    ['/ip4/192.0.2.1/tcp/4001/ws', 'WebSocket'],
    ['/dns4/example.org/tcp/443/wss', 'WebSocket'],
    ['/ip4/192.0.2.1/udp/4001/webrtc-direct', 'WebRTC'],
    ['/ip4/192.0.2.1/tcp/1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X/p2p-circuit', 'a circuit relay'],
    ['/ip4/192.0.2.1/udp/4001', 'a transport over UDP'],
    ['/ip4/192.0.2.1', 'something other than a host and a TCP port (/ip4/192.0.2.1)']
  ])('%s is told to need %s', (address, transport) => {
    expect(missingTransport(multiaddr(address))).toBe(transport)
  })

  it.each(['/ip4/192.0.2.1/tcp/4001', '/ip6/::1/tcp/1', '/dns4/example.org/tcp/4001', '/dnsaddr/example.org'])('%s needs none', (address) => {
    expect(missingTransport(multiaddr(address))).toBeUndefined()
  })
})
