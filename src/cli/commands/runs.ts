import { homeAt } from '../../node/home/home.ts'
import { readRuns } from '../../roles/client/training/run-log.ts'
import { command } from '../command.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'
import { runOverview, runsText } from '../views/runs-view.ts'

export const runs = command({
  name: 'runs',
  group: 'Work',
  summary: 'List the training runs of this home, with their losses',
  details: 'Each run has a directory in the home, with its figures round by round in metrics.jsonl. No daemon is needed.',
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan runs', about: 'when each run began, its rounds, and how its loss fell' }],
  async run ({ home, json }, { terminal }) {
    const overviews = (await readRuns(homeAt(home).runs)).map(runOverview)
    if (json) return terminal.json({ runs: overviews })
    for (const line of runsText(overviews)) terminal.line(line)
  }
})
