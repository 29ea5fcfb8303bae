import type { Waiting } from '../../../api/fields.ts'
import { IGNORED_TARGET, type Batch, type Batches } from '../../../model/text/batches.ts'
import type { ClientRuntime } from '../runtime.ts'
import { lossOf } from '../training/evaluation.ts'
import type { MiddleBatches } from './middle-batches.ts'

/** The loss over some sequences, summed over the counted tokens, in nats. */
export interface MeasuredLoss {
  readonly lossSum: number
  readonly tokens: number
  readonly sequences: number
}

/** Measures the loss over the first epoch of some batches, or over `limit` sequences of it, and yields how far it is. */
export async function * measureLoss (
  runtime: ClientRuntime,
  middle: MiddleBatches,
  batches: Batches,
  limit: number,
  signal: AbortSignal
): AsyncGenerator<Waiting | { readonly type: 'progress', readonly sequences: number, readonly tokens: number }, MeasuredLoss> {
  let [lossSum, tokens, sequences] = [0, 0, 0]
  const count = batches.count(0)
  for (let index = 0; index < count && sequences < limit; index++) {
    const batch = firstSequences(batches.at({ epoch: 0, index }).batch, limit - sequences)
    const { released, outputs } = yield * middle.compute(batch, batches.changedByOne(batch), signal)
    const loss = await lossOf(runtime, released, outputs)
    lossSum += loss.lossSum
    tokens += loss.countedTokens
    sequences += batch.ids.length
    yield { type: 'progress', sequences, tokens }
  }
  return { lossSum, tokens, sequences }
}

/** Returns a batch of the first `count` sequences of another at most. */
function firstSequences (batch: Batch, count: number): Batch {
  if (batch.ids.length <= count) return batch
  const targets = batch.targets.slice(0, count)
  const tokens = targets.flat().filter((id) => id !== IGNORED_TARGET).length
  return { ids: batch.ids.slice(0, count), targets, lengths: batch.lengths.slice(0, count), tokens }
}
