import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { defaulted, grouped } from '../option.ts'
import { json } from '../shared-options.ts'
import { duration } from '../values.ts'

export const entrust = command({
  name: 'entrust',
  operation: 'entrust',
  group: 'Found and join',
  summary: "Let a server lead in this one's place one day",
  details: `For the founder's server: gives a server a mandate to lead the federation when somebody runs midspan promote there, and from now on a copy of
the state of training after each round. A mandate cannot be taken back before it expires: whoever has it can take over the federation at any
time, invite, remove and lead. Without one that was given before, nobody can lead in the place of a founder whose home is lost.`,
  argument: { name: 'peer', about: "The server's peer id, as midspan servers prints it" },
  options: {
    ...grouped('Mandate', {
      expires: defaulted('DURATION', duration({ max: '3650d' }), '365d', 'How long the server may take over, such as 30d; ten years at most')
    }),
    ...grouped('Output', { json })
  },
  examples: [{ command: 'midspan entrust --home s 12D3KooW…', about: 'a server that is to lead when this one is gone' }],
  async run ({ home, expires, json }, { terminal, argument, signal }) {
    const answer = await askDaemon(home, 'entrust', { peer: argument ?? '', expiresMs: expires }, signal, terminal)
    if (json) terminal.json(answer)
    else terminal.line(`${answer.entrusted} may lead until ${answer.expires}: with midspan promote, in its home`)
  }
})
