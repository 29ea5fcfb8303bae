import { createHash } from 'node:crypto'
import type { Span } from '../../span.ts'

/**
 * Servers of each block that a client keeps connections to: more than it has sessions with, and enough to choose the fastest of and to lose
 * some of. Were it all of them, 64 servers and 512 clients would keep 32,768 connections, each of which pings and has memory at both ends.
 */
const LINKS_PER_BLOCK = 8

/**
 * Chooses the servers that a client keeps connections to, by their peer ids: of each block all servers where there are few, and so many
 * where there are more. Each client ranks servers in an order of its own, so that clients spread over them, and a server that comes or goes
 * changes the choice of those alone who rank it high.
 */
export function chooseServers (self: string, servers: Iterable<{ readonly peer: string, readonly span: Span }>): Set<string> {
  const ranked = [...servers].map((server) => ({ ...server, rank: rankOf(self, server.peer) })).sort((a, b) => a.rank < b.rank ? -1 : 1)
  const links = new Map<number, number>()
  const chosen = new Set<string>()
  for (const { peer, span: { first, end } } of ranked) {
    const blocks = Array.from({ length: end - first }, (_, i) => first + i)
    if (blocks.every((block) => (links.get(block) ?? 0) >= LINKS_PER_BLOCK)) continue
    for (const block of blocks) links.set(block, (links.get(block) ?? 0) + 1)
    chosen.add(peer)
  }
  return chosen
}

/** Returns a text that orders servers for a client as if at random, and always alike. */
function rankOf (self: string, server: string): string {
  return createHash('sha256').update(`${self}/${server}`).digest('hex')
}
