import type { ResultOf } from '../../api/operations.ts'
import type { VerificationStatus } from '../../api/stage-checks.ts'
import type { Distribution, GenerationStatus, RouteStatus, TrainingStatus } from '../../api/status.ts'
import { blocksText, spanText } from '../../span.ts'
import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { bytes, digits, endSpans, plural, table } from '../format.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'

export const status = command({
  name: 'status',
  operation: 'status',
  group: 'Look',
  summary: 'Show what this peer is and does',
  options: grouped('Output', { json }),
  examples: [{ command: 'midspan status --json', about: 'for a program' }],
  async run ({ home, json }, { terminal, signal }) {
    const answer = await askDaemon(home, 'status', {}, signal, terminal)
    if (json) return terminal.json(answer)
    const rows = describe(answer).map(([name, value]) => [terminal.dim(name.padEnd(NAME_COLUMNS)), value])
    for (const line of table(rows)) terminal.line(line)
  }
})

/** The longest name below, so that the values line up. */
const NAME_COLUMNS = 'federation'.length

function describe (answer: ResultOf<'status'>): ReadonlyArray<readonly [string, string]> {
  const { partition, blocks, starting } = answer
  return [
    ['peer', `${answer.peerId} (${answer.role}, ${answer.agent})`],
    ['home', answer.home],
    ['federation', `${answer.federation.name} (${answer.federation.id})`],
    ...(starting === undefined ? [] : [['starting', `${starting.doing}, since ${starting.since}`] as const]),
    ['device', `${answer.device} (${answer.deviceReason})`],
    ...(blocks === null ? [] : [['serves', `blocks ${blocks.first} to ${blocks.end - 1}`] as const]),
    ...(partition === null ? [] : [['holds', endSpans(partition)] as const]),
    ['leads', answer.coordinator === answer.peerId ? 'this peer' : answer.coordinator],
    ['connected', answer.connected ? 'yes' : `no${answer.disconnectedReason === null ? '' : `: ${answer.disconnectedReason}`}`],
    ...(answer.members === null ? [] : [['members', String(answer.members.length)] as const]),
    ['training', answer.training === null ? 'none' : trainingText(answer.training)],
    ...(answer.training?.residuals ?? []).map((residuals) => ['residuals', residualsText(residuals)] as const),
    ['generation', answer.generation === null ? 'none' : generationText(answer.generation)],
    ...(answer.generation === null ? [] : servingRows(answer.generation)),
    ...(answer.route === null ? [] : [['route', routeText(answer.route)] as const]),
    ...(answer.verification === null ? [] : verificationRows(answer.verification)),
    ['since', answer.since],
    ...answer.addresses.map((address) => ['address', address] as const)
  ]
}

function trainingText ({ active, round, done, rounds, members, waitingFor = [], missing = [], fellBack = false }: TrainingStatus): string {
  return [
    ...(active === undefined ? [] : [active ? 'running' : 'not running']),
    ...(done === undefined || rounds === undefined ? [] : [`${done} of ${plural(rounds, 'round')} done`]),
    `the federation is at round ${round}`,
    ...(fellBack ? ['from an older state, since the newest was damaged or missing at start'] : []),
    ...(members === undefined ? [] : [`${plural(members, 'client')} in it`]),
    ...(waitingFor.length === 0 ? [] : [`waiting for ${waitingFor.join(' and ')}`]),
    ...(missing.length === 0 ? [] : [`waiting for ${blocksText(missing)}: nobody serves them`])
  ].join(', ')
}

function residualsText ({ setting, policy, saved, recomputed }: TrainingStatus['residuals'][number]): string {
  const cost = (name: string, of: typeof saved): readonly string[] =>
    of === undefined ? [] : [`${name} ${bytes(of.bytesPerRow)} and ${digits(of.msPerRow)} ms a token and block`]
  return [
    setting === 'auto' ? `auto, ${policy === undefined ? 'being measured' : `now ${policy}`}` : setting,
    ...cost('saved', saved),
    ...cost('recomputed', recomputed)
  ].join('; ')
}

function routeText ({ legs, missing }: RouteStatus): string {
  const parts = legs.map(({ server, blocks, roundTripMs }) =>
    `blocks ${spanText(blocks)} at ${server}${roundTripMs === null ? '' : ` (${digits(roundTripMs)} ms)`}`)
  return [...parts, ...(missing.length === 0 ? [] : [`nobody serves ${blocksText(missing)} now`])].join(', ')
}

function verificationRows (
  { share, checked, tokens, differing, unchecked, caught }: VerificationStatus
): ReadonlyArray<readonly [string, string]> {
  const counts = [
    `${digits(100 * share)}% of texts`,
    `${plural(checked, 'stage')} checked, ${plural(tokens, 'token')}`,
    ...(differing === 0 ? [] : [`${differing} undecided`]),
    ...(unchecked === 0 ? [] : [`${unchecked} that nobody could check`])
  ]
  return [
    ['checks', counts.join('; ')],
    ...caught.map(({ server, blocks, at }) => ['left out', `${server} computed blocks ${spanText(blocks)} wrong (${at})`] as const)
  ]
}

function generationText ({ sequences, cacheBytes, cacheLimitBytes, evictions }: GenerationStatus): string {
  const given = evictions === 0 ? '' : `, ${plural(evictions, 'idle cache')} given up for others`
  return `${plural(sequences, 'sequence')}, ${bytes(cacheBytes)} of ${bytes(cacheLimitBytes)} cache${given}`
}

/** Clients whose share is shown. */
const SHOWN_CLIENTS = 5

function servingRows ({ serving, memory }: GenerationStatus): ReadonlyArray<readonly [string, string]> {
  const { tokens, runTokens, runSequences, queueMs, firstTokenMs, betweenTokensMs, clients } = serving
  const times = (name: string, { count, p50, p99 }: Distribution): readonly string[] =>
    count === 0 ? [] : [`${name} ${digits(p50)} ms, in the worst hundredth ${digits(p99)} ms`]
  const held = `${bytes(memory.processBytes)}, of it ${bytes(memory.deviceBytes)} on the device, ${bytes(memory.cacheBytes)} of that in caches`
  return [
    ...(tokens === 0 ? [] : [
      ['served', `${plural(tokens, 'token')} in ${plural(runTokens.count, 'run')}: ${digits(runTokens.mean)} of ${digits(runSequences.mean)} sequences each`],
      ...[
        ...times('waiting', queueMs), ...times('first token', firstTokenMs), ...times('between tokens', betweenTokensMs)
      ].map((text) => ['times', text] as const),
      ...clients.slice(0, SHOWN_CLIENTS).map(({ peer, tokens: own, weight }) =>
        ['share', `${digits(100 * own / tokens)}% ${peer}${weight === 1 ? '' : `, of weight ${weight}`}`] as const)
    ] as const),
    ['memory', held]
  ]
}
