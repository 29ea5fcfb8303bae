import type { ResultOf } from '../../api/operations.ts'
import type { ServerLine } from '../../api/servers.ts'
import { spanText } from '../../span.ts'
import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { bytes, digits, plural, table } from '../format.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'

export const servers = command({
  name: 'servers',
  operation: 'servers',
  group: 'Look',
  summary: 'Show who serves which blocks',
  details: `For each server: its id, the blocks that it serves (4-12: from 4 on, before 12), whether this peer is connected to it, the round-trip time, and what it says of its load and speed.
A server that chose its blocks by itself is marked auto: it moves where blocks have no server, and the list says why.
Then how many servers serve each block, and which blocks nobody serves: servers that are not connected serve none for now.`,
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan servers', about: 'whether every block is served' }],
  async run ({ home, json }, { terminal, signal }) {
    const answer = await askDaemon(home, 'servers', {}, signal, terminal)
    if (json) return terminal.json(answer)
    const [head = '', ...lines] = table([HEAD, ...answer.servers.map(row)])
    terminal.line(terminal.bold(head))
    for (const line of lines) terminal.line(line)
    for (const line of answer.servers.flatMap(reasonLines)) terminal.line(line)
    for (const line of coverageLines(answer)) terminal.line(line)
  }
})

const HEAD = ['SERVER', 'BLOCKS', 'CONNECTED', 'ROUND TRIP', 'SESSIONS', 'QUEUE', 'FREE CACHE', 'PREFILL', 'DECODE', '']

function row ({ peerId, isSelf, isCoordinator, connected, blocks, roundTripMs, load, placement }: ServerLine): readonly string[] {
  return [
    peerId,
    blocks === null ? '-' : spanText(blocks),
    connected ? 'yes' : 'no',
    roundTripMs === null ? '-' : `${digits(roundTripMs)} ms`,
    load === null ? '-' : String(load.sessions),
    load === null ? '-' : plural(load.queuedTokens, 'token'),
    load === null ? '-' : bytes(load.freeCacheBytes),
    speed(load?.prefillTokensPerSecond),
    speed(load?.decodeTokensPerSecond),
    [
      ...(isCoordinator ? ['leads'] : []),
      ...(isSelf ? ['this peer'] : []),
      ...(placement === null ? [] : [placement.isDraining ? 'moves away' : 'auto'])
    ].join(', ')
  ]
}

function reasonLines ({ peerId, placement }: ServerLine): string[] {
  return placement === null || placement.reason === null ? [] : [`${peerId} ${placement.reason}`]
}

function speed (tokensPerSecond = 0): string {
  return tokensPerSecond === 0 ? '-' : `${digits(tokensPerSecond)} tokens/s`
}

function coverageLines ({ coverage }: ResultOf<'servers'>): string[] {
  return coverage.map(({ blocks, servers }) =>
    `blocks ${spanText(blocks)} are served by ${servers === 0 ? 'nobody' : `${plural(servers, 'server')} each`}`
  )
}
