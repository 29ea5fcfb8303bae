import type { Multiaddr } from '@multiformats/multiaddr'

const IPV6_GROUPS = 8
const NETWORK_GROUPS = 4

/**
 * Returns the key under which connections from an address are counted: the address for IPv4, the /64 network for IPv6, since whoever has
 * one address of a /64 network has all of them.
 */
export function addressKey (address: Multiaddr): string {
  for (const { name, value } of address.getComponents()) {
    if (name === 'ip4' && value !== undefined) return value
    if (name === 'ip6' && value !== undefined) return ipv6Key(value)
  }
  return 'other'
}

/** Groups of the network that a provider gives to one customer, who has 65,536 /64 networks in it. */
const SITE_GROUPS = 3

/** Returns the site of an address's key: who may have many keys for nothing. The key itself for IPv4. */
export function siteOf (key: string): string {
  return key.endsWith('::/64') ? `${key.split(':', SITE_GROUPS).join(':')}::/48` : key
}

function ipv6Key (address: string): string {
  const embedded = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (embedded !== undefined) return embedded
  const [left = '', right] = address.toLowerCase().split('::')
  const head = groupsOf(left)
  const tail = groupsOf(right ?? '')
  const zeros = right === undefined ? 0 : Math.max(IPV6_GROUPS - head.length - tail.length, 0)
  const groups = [...head, ...Array.from({ length: zeros }, () => '0'), ...tail]
  if (groups.length === IPV6_GROUPS && groups.slice(0, 5).every((group) => Number.parseInt(group, 16) === 0) && groups[5] === 'ffff')
    return groups.slice(6).flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 0xff]).join('.')
  return `${groups.slice(0, NETWORK_GROUPS).map((group) => group.replace(/^0+(?=.)/, '')).join(':')}::/64`
}

function groupsOf (text: string): string[] {
  return text === '' ? [] : text.split(':')
}
