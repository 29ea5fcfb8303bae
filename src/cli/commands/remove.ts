import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'

export const remove = command({
  name: 'remove',
  operation: 'remove',
  group: 'Found and join',
  summary: "Take a peer's place in the federation away",
  details: `For a server: makes room for another client, and hangs up. The peer stays removed until it shows an invite for one peer that was
made since then; a peer on the allow-list can come back. An invite for several peers can still be used by others: midspan revoke ends it.
The members are in: midspan status --json.`,
  argument: { name: 'peer', about: "The peer's id" },
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan remove --home s 12D3KooW…', about: 'a client whose machine was lost' }],
  async run ({ home, json }, { terminal, argument, signal }) {
    const answer = await askDaemon(home, 'remove', { peer: argument }, signal, terminal)
    if (json) terminal.json(answer)
    else terminal.line(`Removed ${answer.removed}`)
  }
})
