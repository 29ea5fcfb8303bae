import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { UsageError } from '../../../errors.ts'
import type { Batches, BatchOptions } from '../../../model/text/batches.ts'
import type { Example } from '../../../model/text/dataset.ts'
import { checkClientSettings, type ClientSettings } from '../../../protocols/charter/index.ts'
import { protectionOf } from '../../charter-settings.ts'
import { attackedText, countOf } from '../audit/attacked-text.ts'
import { makeAttacks, type AttackContext, type AttackResult, type AuditProgress } from '../audit/attacks.ts'
import { gradientAttackOn } from '../audit/gradient-attack.ts'
import { openPrior } from '../audit/open-prior.ts'
import { noticesBefore, reportOf } from '../audit/report.ts'
import { splitExamples, tryTrainings, type TrialLosses } from '../audit/trials.ts'
import type { Client } from '../client.ts'
import { foundIn, loadBatches } from '../training/data.ts'

/**
 * Attacks what this client's settings let leave of its own text, and tries what they cost. Everything is computed here: no server is asked,
 * and nothing is sent. No training runs meanwhile, since it changes what is attacked.
 */
export function audit (client: Client, parameters: ParametersOf<'audit'>, signal: AbortSignal): AsyncGenerator<EventOf<'audit'>> {
  return client.lock.exclusively(() => run(client, parameters, signal), signal)
}

async function * run (
  { context: { charter, client: chosen, paths }, runtime }: Client,
  { tokens, prior: priorPath, model: wholeModel, evalData, rounds, noise, gradientNoise, ...data }: ParametersOf<'audit'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'audit'>> {
  if (data.withhold !== undefined)
    throw new UsageError('the audit does not attack texts with words withheld yet', 'leave the rules out: then it attacks all words')
  const startedAtMs = performance.now()
  const settings: ClientSettings = { ...chosen, noise: noise ?? chosen.noise, gradientNoise: gradientNoise ?? chosen.gradientNoise }
  checkClientSettings(charter, settings)
  const { partition } = settings
  const protection = protectionOf(charter, settings)
  const { dataset, batches, batching } = await loadBatches(data, 'learn', paths.model, charter, signal)
  const { bosId, eosIds } = await runtime.tokenizer.facts()
  const special = new Set([...eosIds, ...bosId === undefined ? [] : [bosId]])
  const sequences = attackedText(batches, { tokens, maxPositions: runtime.model.maxPositions, special })
  const attacked = countOf(sequences)
  if (attacked === 0) throw new UsageError('the text has no token after the first ones that could be attacked', 'give more text')
  const trials = await trialData(evalData, { rounds, dataset: dataset.examples, batches, batching }, async (heldOut) =>
    (await loadBatches({ ...data, data: heldOut, packing: 'padded', sequences: undefined }, 'measure', paths.model, charter, signal)).batches)
  const onLabels = gradientAttackOn(batches, { charter, model: runtime.model, partition, tokens, special })
  const isAttacked = typeof onLabels !== 'string'
  const notices = noticesBefore({
    tokens: attacked,
    withoutGradients: isAttacked ? undefined : onLabels,
    losses: { wanted: rounds > 0, possible: trials !== undefined },
    wholeModel
  })
  yield { type: 'start', records: dataset.examples.length, tokens: attacked, notices, data: foundIn(dataset) }

  const { prior, free } = await openPrior(runtime, priorPath, signal)
  const context: AttackContext = { charter, partition, runtime, protection, prior, wholeModel }
  let attacks: AttackResult[]
  try {
    attacks = yield * makeAttacks(context, { sequences, labels: isAttacked ? onLabels : undefined }, signal)
  } finally {
    free()
  }
  const losses = trials === undefined
    ? undefined
    : yield * asProgress(tryTrainings({ charter, partition, runtime, protection, wholeModel, rounds, ...trials }, signal))
  yield reportOf(context, {
    attacks: attacks as [AttackResult, ...AttackResult[]], losses, notices, seconds: (performance.now() - startedAtMs) / 1000
  })
}

async function * asProgress (trials: ReturnType<typeof tryTrainings>): AsyncGenerator<AuditProgress, TrialLosses> {
  for (;;) {
    const next = await trials.next()
    if (next.done === true) return next.value
    yield { type: 'progress', ...next.value }
  }
}

/** Chooses what trials learn and are measured on; undefined where there are none, or too few records to hold any out. */
async function trialData (
  evalData: ParametersOf<'audit'>['evalData'],
  { rounds, dataset, batches, batching }: {
    readonly rounds: number
    readonly dataset: readonly Example[]
    readonly batches: Batches
    readonly batching: BatchOptions
  },
  load: (data: NonNullable<typeof evalData>) => Promise<Batches>
): Promise<{ trained: Batches, heldOut: Batches } | undefined> {
  if (rounds === 0) return undefined
  return evalData === undefined ? splitExamples(dataset, batching) : { trained: batches, heldOut: await load(evalData) }
}
