import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { grouped } from '../option.ts'
import { json, timeout } from '../shared-options.ts'

/** How long the daemon has to end its work before it tells the servers. */
const STOP_MS = 60_000

export const leave = command({
  name: 'leave',
  operation: 'leave',
  group: 'Found and join',
  summary: 'Leave the federation',
  details:
    'Tells the servers, and removes the charter, the weights and the training state from the home. The identity stays. Export first what you want to keep.',
  options: { ...grouped('Network', { timeout }), ...grouped('Output', { json }) },
  examples: [{ command: 'midspan leave --home a', about: 'the home can join another federation afterwards' }],
  async run ({ home, json, timeout }, { terminal, signal }) {
    const answer = await askDaemon(home, 'leave', { timeoutMs: timeout }, signal, terminal, timeout + STOP_MS)
    if (json) return terminal.json(answer)
    terminal.line('Left the federation')
    if (answer.told.length === 0) terminal.note('No server could be told: its operator can go on counting this peer as a member')
  }
})
