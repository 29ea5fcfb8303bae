import { FEW_AUDIT_TOKENS } from '../../../api/audit.ts'
import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { UsageError } from '../../../errors.ts'
import { checkClientSettings, type ClientSettings } from '../../../protocols/charter/index.ts'
import { openPrior } from '../audit/open-prior.ts'
import { prepareText, type PreparedText } from '../audit/prepared-text.ts'
import { planSweep, type SweepGroup } from '../audit/sweep-plan.ts'
import { sweepReport } from '../audit/sweep-report.ts'
import { sweep } from '../audit/sweep.ts'
import { countTokens } from '../audit/trials.ts'
import type { Client } from '../client.ts'
import { foundIn } from '../training/data.ts'

/**
 * Tries settings that the charter allows, on this client's own text: what each lets leave, and what it costs. Everything is computed here,
 * as in an audit.
 */
export function auditSweep (client: Client, parameters: ParametersOf<'auditSweep'>, signal: AbortSignal): AsyncGenerator<EventOf<'auditSweep'>> {
  return client.lock.exclusively(() => run(client, parameters, signal), signal)
}

async function * run (
  client: Client,
  {
    axes, budgetMs, maxLeak, tokens, prior: priorPath, model: wholeModel, evalData, rounds, noise, gradientNoise, ...data
  }: ParametersOf<'auditSweep'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'auditSweep'>> {
  const { context: { charter, client: chosen }, runtime } = client
  const startedAtMs = performance.now()
  if (wholeModel === undefined) throw new UsageError('a sweep measures losses, which takes the whole model', 'name its directory with --model')
  const settings: ClientSettings = { ...chosen, noise: noise ?? chosen.noise, gradientNoise: gradientNoise ?? chosen.gradientNoise }
  checkClientSettings(charter, settings)
  const { groups, notices: limits } = planSweep(charter, settings, { axes, rules: data.withhold })
  const texts = new Map<string, Promise<PreparedText>>()
  const textFor = async ({ rules }: Pick<SweepGroup, 'rules'>): Promise<PreparedText> => {
    const key = rules ?? ''
    const { withhold: _, ...plain } = data
    const own = rules === undefined ? plain : { ...plain, withhold: rules }
    const { partition } = settings
    const text = texts.get(key) ?? prepareText(client, { data: own, tokens, evalData, rounds, partition }, signal)
    texts.set(key, text)
    return await text
  }
  const { dataset, attacked, labels, trials } = await textFor(groups[0]!)
  if (trials === undefined) throw new UsageError('too few records to hold any out, so that no loss can be measured', 'give --eval-data')
  const notices = [
    ...limits,
    ...attacked < FEW_AUDIT_TOKENS
      ? [`only ${attacked} tokens are attacked, fewer than ${FEW_AUDIT_TOKENS}: the errors are large; give more text, or more with --tokens`]
      : [],
    ...typeof labels === 'string' ? [`leaks are those of hidden states alone; gradients leave as well, and are not attacked: ${labels}`] : []
  ]
  yield { type: 'start', records: dataset.examples.length, tokens: attacked, notices, data: foundIn(dataset) }

  const { prior, free } = await openPrior(runtime, priorPath ?? wholeModel, signal)
  try {
    const leftMs = (): number => startedAtMs + budgetMs - performance.now()
    const found = yield * sweep({ charter, settings, runtime, wholeModel, prior, rounds, groups, textFor, leftMs }, signal)
    yield sweepReport(found, {
      axes,
      maxLeak,
      rounds,
      heldOutTokens: countTokens(trials.plain.heldOut),
      prior: { kind: prior.kind, about: prior.about },
      notices,
      seconds: (performance.now() - startedAtMs) / 1000
    })
  } finally {
    free()
  }
}
