import type { Waiting } from '../../../api/fields.ts'
import type { ProgressOf } from '../../../api/operations.ts'
import type { Batches } from '../../../model/text/batches.ts'
import { ExportError, writeExport } from '../../export.ts'
import type { Client } from '../client.ts'
import type { EvaluationSchedule } from '../training/evaluation-schedule.ts'
import type { RunLog } from '../training/run-log.ts'
import { finite } from './finite.ts'
import { measureLoss } from './measured-loss.ts'
import { MiddleBatches } from './middle-batches.ts'

/** A batch of an evaluation that is not answered for so long ends it, as that of `midspan evaluate` does. */
const ANSWER_TIMEOUT_MS = 120_000

export type EvaluationEvent = Extract<ProgressOf<'train'>, { readonly type: 'evaluation' }>

export interface RunEvaluation {
  readonly batches: Batches
  readonly schedule: EvaluationSchedule
  readonly log: RunLog
}

/**
 * Measures the loss on held-out data between two rounds, and keeps the adapters where it is the smallest so far: all of them, as the
 * federation has them then, beside the run's log. Yields one evaluation, and what it waits for.
 */
export async function * evaluateRun (
  client: Client,
  { batches, schedule, log }: RunEvaluation,
  done: number,
  signal: AbortSignal
): AsyncGenerator<Waiting | EvaluationEvent> {
  const middle = new MiddleBatches(client, ANSWER_TIMEOUT_MS)
  let measured: { readonly lossSum: number, readonly tokens: number }
  try {
    const measuring = measureLoss({ ...client.runtime, gate: client.gate }, middle, batches, Infinity, signal)
    for (;;) {
      const next = await measuring.next()
      if (next.done === true) {
        measured = next.value
        break
      }
      if (next.value.type === 'waiting') yield next.value
    }
  } finally {
    await middle.close()
  }
  const { lossSum, tokens } = measured
  const loss = finite(lossSum / tokens)
  const best = schedule.note(done, loss ?? NaN)
  await log.evaluation({ done, loss, tokens, best })
  const kept = best ? await keepBest(client, log, signal) : undefined
  yield { type: 'evaluation', done, loss, tokens, best, ...(kept === undefined ? {} : { kept }) }
}

/** Writes the adapters as they are beside the run's log. Returns the directory; undefined where what is trained is no adapter. */
async function keepBest (
  { context: { charter }, adapters, gate }: Client,
  { best }: RunLog,
  signal: AbortSignal
): Promise<string | undefined> {
  const trained = await adapters.all(signal)
  try {
    const exported = { charter, trained, gate: gate.wasTrained ? gate.value : undefined, out: best, merged: false, force: true }
    for await (const written of writeExport(exported, signal))
      if (written.type === 'done') return written.directory
  } catch (error) {
    if (!(error instanceof ExportError)) throw error
  }
  return undefined
}
