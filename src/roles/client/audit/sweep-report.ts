import type { SweepPoint } from '../../../api/audit-sweep.ts'
import type { ResultOf } from '../../../api/operations.ts'
import { chooseSetting, onFrontier } from '../../../model/privacy/audit/frontier.ts'
import { finite } from '../operations/finite.ts'
import { settingText } from './sweep-plan.ts'
import type { SweepFindings, TriedSetting } from './sweep.ts'

type Report = ResultOf<'auditSweep'>

/** Makes the report of the settings that were tried, the cheapest first, with the recommended one. */
export function sweepReport (
  { tried, unprotected, alone, leftOut }: SweepFindings,
  { maxLeak, ...rest }: Pick<Report, 'axes' | 'maxLeak' | 'rounds' | 'heldOutTokens' | 'prior' | 'notices' | 'seconds'>
): Report {
  const settings = [...tried].sort((a, b) => (Number.isFinite(a.loss) ? a.loss : Infinity) - (Number.isFinite(b.loss) ? b.loss : Infinity))
  const frontier = onFrontier(settings)
  const choice = maxLeak === undefined ? undefined : chooseSetting(settings, { alone, maxLeak })
  const recommended = choice?.kind === 'found' ? choice.index : undefined
  return {
    type: 'result',
    ...rest,
    ...maxLeak === undefined ? {} : { maxLeak },
    points: settings.map((setting, i) => shownPoint(setting, frontier[i]!)),
    unprotected: finite(unprotected),
    alone: finite(alone),
    recommended: recommended ?? null,
    meaning: [
      `Without protection the loss is ${unprotected.toFixed(3)} after ${rest.rounds} rounds, and ${alone.toFixed(3)} where this client works alone.`,
      meaningOf(recommended === undefined ? undefined : settings[recommended], choice?.kind, maxLeak),
      ...leftOut.length === 0 ? [] : [`${leftOut.length} settings were left out.`]
    ].join(' '),
    leftOut
  }
}

function meaningOf (found: TriedSetting | undefined, kind: ReturnType<typeof chooseSetting>['kind'] | undefined, maxLeak = 1): string {
  if (kind === undefined) return 'Give --max-leak to have a setting recommended.'
  if (found !== undefined) {
    const { partition, rules, leak: { value, error }, loss } = found
    return `Of the settings that let at most ${percent(maxLeak)} leak, the least loss, ${loss.toFixed(3)}, has: ${settingText(partition, rules, found)}. It lets ${
      percent(value)} leak (± ${(100 * error).toFixed(1)}).`
  }
  return kind === 'none below alone'
    ? `No setting that lets at most ${percent(maxLeak)} leak has a loss below that of this client alone: then nothing is better than not to send the text.`
    : `None of the settings lets at most ${percent(maxLeak)} leak.`
}

function percent (share: number): string {
  return `${(100 * share).toFixed(1)} %`
}

function shownPoint ({ partition, rules, loss, ...setting }: TriedSetting, isOnFrontier: boolean): SweepPoint {
  return { ...partition, ...setting, withhold: rules ?? null, loss: finite(loss), isOnFrontier }
}
