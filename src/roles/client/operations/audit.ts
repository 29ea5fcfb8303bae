import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { checkClientSettings, type ClientSettings } from '../../../protocols/charter/index.ts'
import { protectionOf } from '../../charter-settings.ts'
import type { AttackContext, AuditProgress } from '../audit/attacks.ts'
import { openPrior } from '../audit/open-prior.ts'
import { attackText, prepareText, type TextFindings } from '../audit/prepared-text.ts'
import { noticesBefore, reportOf } from '../audit/report.ts'
import { tryTrainings, type TrialLosses } from '../audit/trials.ts'
import type { Client } from '../client.ts'
import { foundIn } from '../training/data.ts'

/**
 * Attacks what this client's settings let leave of its own text, and tries what they cost. Everything is computed here: no server is asked,
 * and nothing is sent. No training runs meanwhile, since it changes what is attacked.
 */
export function audit (client: Client, parameters: ParametersOf<'audit'>, signal: AbortSignal): AsyncGenerator<EventOf<'audit'>> {
  return client.lock.exclusively(() => run(client, parameters, signal), signal)
}

async function * run (
  client: Client,
  { tokens, prior: priorPath, model: wholeModel, evalData, rounds, noise, gradientNoise, ...data }: ParametersOf<'audit'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'audit'>> {
  const { context: { charter, client: chosen }, runtime } = client
  const startedAtMs = performance.now()
  const settings: ClientSettings = { ...chosen, noise: noise ?? chosen.noise, gradientNoise: gradientNoise ?? chosen.gradientNoise }
  checkClientSettings(charter, settings)
  const { partition } = settings
  const protection = protectionOf(charter, settings)
  const text = await prepareText(client, { data, tokens, evalData, rounds, partition }, signal)
  const { attacked, withheld, labels, trials, dataset } = text
  const notices = noticesBefore({
    tokens: attacked,
    withheld,
    withoutGradients: typeof labels === 'string' ? labels : undefined,
    losses: { wanted: rounds > 0, possible: trials !== undefined },
    wholeModel
  })
  yield { type: 'start', records: dataset.examples.length, tokens: attacked, notices, data: foundIn(dataset) }

  // Who guesses withheld words has the strongest language model at hand.
  const { prior, free } = await openPrior(runtime, priorPath ?? (data.withhold === undefined ? undefined : wholeModel), signal)
  const context: AttackContext = { charter, partition, runtime, protection, prior, wholeModel }
  let found: TextFindings
  try {
    found = yield * attackText(context, text, signal)
  } finally {
    free()
  }
  const losses = trials === undefined
    ? undefined
    : yield * asProgress(tryTrainings({ charter, partition, runtime, protection, wholeModel, rounds, ...trials }, signal))
  yield reportOf(context, { ...found, losses, notices, seconds: (performance.now() - startedAtMs) / 1000 })
}

async function * asProgress (trials: ReturnType<typeof tryTrainings>): AsyncGenerator<AuditProgress, TrialLosses> {
  for (;;) {
    const next = await trials.next()
    if (next.done === true) return next.value
    yield { type: 'progress', ...next.value }
  }
}
