import { command } from '../command.ts'
import { grouped, optional } from '../option.ts'
import { json } from '../shared-options.ts'
import { path } from '../values.ts'

export const promote = command({
  name: 'promote',
  group: 'Found and join',
  summary: 'Have this server lead the federation from now on',
  details: `Stop its daemon first, and start it again afterwards. The server needs a mandate of the founder (midspan entrust), or is the founder's own.
It takes over the state of training from the copy that the coordinator sent it after each round, or from a copy of the coordinator's home (--from).
Members hear of it from any server that they are connected to, and follow; a coordinator that hears of it stops leading, and serves its blocks.`,
  options: {
    ...grouped('State', { from: optional('DIR', path, "A copy of the coordinator's home, or that home itself", 'the copy that came here') }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan promote --home w1', about: 'the founder is gone, and had entrusted this server' },
    { command: 'midspan promote --home w1 --from s', about: "the founder's home was restored, and is to rest" }
  ],
  async run ({ home, from, json }, { terminal }) {
    const { promote: promoteHome } = await import('../../node/succession/promote.ts')
    const promoted = await promoteHome(home, { from })
    if (json) return terminal.json(promoted)
    terminal.line(`${promoted.peerId} leads from now on, in term ${promoted.term}, from round ${promoted.round}`)
    terminal.line(`Start it: midspan daemon --home ${home}`)
  }
})
