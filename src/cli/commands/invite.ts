import { MAX_WEIGHT } from '../../api/invite.ts'
import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { defaulted, grouped } from '../option.ts'
import { json } from '../shared-options.ts'
import { choice, duration, integer } from '../values.ts'

export const invite = command({
  name: 'invite',
  operation: 'invite',
  group: 'Found and join',
  summary: 'Print an invite to hand to somebody',
  details: `Whoever holds the line that this prints can join until it expires: send it over a channel you trust. Only the founder's server invites.
A mail program may break or quote the line: \`midspan join\` reads it all the same.`,
  options: {
    ...grouped('Invite', {
      role: defaulted('ROLE', choice('client', 'server'), 'client', 'What the holder may join as: a client, or a server of some blocks'),
      expires: defaulted(
        'DURATION',
        duration({ max: '3650d' }),
        '24h',
        'How long it can be used, such as 30m, 24h or 7d; ten years at most'
      ),
      uses: defaulted('COUNT', integer({ min: 1, max: 10_000 }), '1', 'How many peers can join with it'),
      weight: defaulted(
        'N',
        integer({ min: 1, max: MAX_WEIGHT }),
        '1',
        "The share of servers that the holder's texts have where texts compete: 2 is served twice as many tokens as 1"
      )
    }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan invite --home s --expires 24h', about: 'for one client, until tomorrow' },
    { command: 'midspan invite --home s --uses 20 --expires 7d', about: 'for a class' },
    { command: 'midspan invite --home s --role server', about: 'for somebody with a GPU, who serves some of the blocks' }
  ],
  async run ({ home, role, expires, uses, weight, json }, { terminal, signal }) {
    const answer = await askDaemon(home, 'invite', { role, expiresMs: expires, uses, weight }, signal, terminal)
    if (json) return terminal.json(answer)
    if (answer.warning !== null) terminal.note(`Note: ${answer.warning}`)
    terminal.line(answer.invite)
  }
})
