import type { Waiting } from '../../../api/fields.ts'
import type { Batches } from '../../../model/text/batches.ts'
import { lossOf, type EvaluationComponents } from '../training/evaluation.ts'
import type { MiddleBatches } from './middle-batches.ts'

/** The loss over some sequences, summed over the counted tokens, in nats. */
export interface MeasuredLoss {
  readonly lossSum: number
  readonly tokens: number
  readonly sequences: number
}

/** Measures the loss over the first epoch of some batches, or over `limit` sequences of it, and yields how far it is. */
export async function * measureLoss (
  components: EvaluationComponents,
  middle: MiddleBatches,
  batches: Batches,
  limit: number,
  signal: AbortSignal
): AsyncGenerator<Waiting | { readonly type: 'progress', readonly sequences: number, readonly tokens: number }, MeasuredLoss> {
  let [lossSum, tokens, sequences] = [0, 0, 0]
  const count = batches.count(0)
  for (let index = 0; index < count && sequences < limit; index++) {
    const { batch } = batches.at({ epoch: 0, index }, limit - sequences)
    const { released, outputs } = yield * middle.compute(batch, batches.changedByOne(batch), signal)
    const loss = await lossOf(components, released, outputs)
    lossSum += loss.lossSum
    tokens += loss.countedTokens
    sequences += (batch.own ?? batch).ids.length
    yield { type: 'progress', sequences, tokens }
  }
  return { lossSum, tokens, sequences }
}
