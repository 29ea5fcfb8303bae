import type { PeerLine } from '../../api/peers.ts'
import { spanText } from '../../span.ts'
import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { digits, table } from '../format.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'

export const peers = command({
  name: 'peers',
  operation: 'peers',
  group: 'Look',
  summary: 'List the peers that are connected',
  details:
    'For each: its id, role, the blocks it serves (4-12: from 4 on, before 12), the round-trip time, whether the path is direct or relayed, its open sessions, and since when.',
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan peers', about: 'who is there, and how near' }],
  async run ({ home, json }, { terminal, signal }) {
    const answer = await askDaemon(home, 'peers', {}, signal, terminal)
    if (json) return terminal.json(answer)
    if (answer.peers.length === 0) return terminal.note('No peer is connected')
    const [head = '', ...lines] = table([HEAD, ...answer.peers.map(row)])
    terminal.line(terminal.bold(head))
    for (const line of lines) terminal.line(line)
  }
})

const HEAD = ['PEER', 'ROLE', 'BLOCKS', 'ROUND TRIP', 'PATH', 'SESSIONS', 'SINCE', 'ADDRESS']

function row ({ peerId, role, blocks, roundTripMs, path, sessions, since, address }: PeerLine): readonly string[] {
  return [
    peerId, role, blocks === null ? '-' : spanText(blocks), roundTripMs === null ? '-' : `${digits(roundTripMs)} ms`,
    path, String(sessions), since, address
  ]
}
