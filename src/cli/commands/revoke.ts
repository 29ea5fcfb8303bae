import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'

export const revoke = command({
  name: 'revoke',
  operation: 'revoke',
  group: 'Found and join',
  summary: 'Take an invite back',
  details:
    'For a server: nobody can join with the invite any more. Peers that joined with it stay: take their places away with midspan remove.',
  argument: { name: 'invite', about: 'The id of the invite, or the beginning of it, as midspan invites lists it' },
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan revoke --home s 4f1c09ab', about: 'an invite that came into the wrong hands' }],
  async run ({ home, json }, { terminal, argument, signal }) {
    const answer = await askDaemon(home, 'revoke', { invite: argument }, signal, terminal)
    if (json) terminal.json(answer)
    else terminal.line(`Revoked ${answer.revoked}`)
  }
})
