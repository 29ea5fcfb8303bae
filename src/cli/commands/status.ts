import type { DaemonStatus } from '../../node/daemon/daemon.ts'
import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { endSpans, table } from '../format.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'

export const status = command({
  name: 'status',
  group: 'Look',
  summary: 'Show what this peer is and does',
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan status --json', about: 'for a program' }],
  async run ({ home, json }, { terminal, signal }) {
    const answer = await askDaemon<DaemonStatus>(home, 'status', {}, signal)
    if (json) return terminal.json(answer)
    const rows = describe(answer).map(([name, value]) => [terminal.dim(name.padEnd(NAME_COLUMNS)), value])
    for (const line of table(rows)) terminal.line(line)
  }
})

/** The longest name below, so that the values line up. */
const NAME_COLUMNS = 'federation'.length

function describe (answer: DaemonStatus): ReadonlyArray<readonly [string, string]> {
  const { partition, blocks } = answer
  return [
    ['peer', `${answer.peerId} (${answer.role}, ${answer.agent})`],
    ['home', answer.home],
    ['federation', `${answer.federation.name} (${answer.federation.id})`],
    ['device', `${answer.device} (${answer.deviceReason})`],
    ...(blocks === null ? [] : [['serves', `blocks ${blocks.first} to ${blocks.end - 1}`] as const]),
    ...(partition === null ? [] : [['holds', endSpans(partition)] as const]),
    ['connected', answer.connected ? 'yes' : `no${answer.disconnectedReason === null ? '' : `: ${answer.disconnectedReason}`}`],
    ...(answer.members === null ? [] : [['members', String(answer.members.length)] as const]),
    ['training', activity(answer.training)],
    ['generation', activity(answer.generation)],
    ['since', answer.since],
    ...answer.addresses.map((address) => ['address', address] as const)
  ]
}

function activity (fields: Readonly<Record<string, unknown>> | null): string {
  if (fields === null) return 'none'
  return Object.entries(fields).map(([name, value]) => `${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`).join(', ')
}
