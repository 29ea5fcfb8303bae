import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'

export const invites = command({
  name: 'invites',
  operation: 'invites',
  group: 'Found and join',
  summary: 'List the invites that can still be used',
  details: 'For a server. Each line has the id of an invite, its role, how many more peers can use it, and until when.',
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan invites --home s', about: 'before one is taken back with: midspan revoke ID' }],
  async run ({ home, json }, { terminal, signal }) {
    const answer = await askDaemon(home, 'invites', {}, signal, terminal)
    if (json) return terminal.json(answer)
    if (answer.invites.length === 0) terminal.line('No invite can be used any more')
    for (const { id, role, usesLeft, expires } of answer.invites) {
      terminal.line(`${id}  ${role}  ${usesLeft} left  until ${expires}`)
    }
  }
})
