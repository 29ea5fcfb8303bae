import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { IGNORED_TARGET, type Batch } from '../../../model/text/batches.ts'
import { protectionOf } from '../../charter-settings.ts'
import type { Client } from '../client.ts'
import { routeOf } from '../server-route.ts'
import { foundIn, loadBatches } from '../training/data.ts'
import { evaluateBatch } from '../training/evaluation.ts'
import { finite } from './finite.ts'

/** Measures the loss on a data file, with the middle at the server and the labels here. */
export async function * evaluate (
  { context, runtime, adapters, sessions }: Client,
  { limit = Infinity, timeoutMs: _, ...data }: ParametersOf<'evaluate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'evaluate'>> {
  const { charter } = context
  // Each record has a context of its own: its loss does not depend on its neighbours.
  const { dataset, batches } = await loadBatches({ ...data, packing: data.packing ?? 'padded' }, runtime.tokenizer, charter, signal)
  const found = foundIn(dataset)
  yield { type: 'start', records: dataset.examples.length, ...found }
  const protection = protectionOf(charter, context.client).hidden
  const startedAtMs = Date.now()
  const stream = await sessions.training(signal)
  try {
    await adapters.refresh(stream, signal)
    const route = routeOf({ training: stream }, { charter, partition: context.client.partition })
    let [lossSum, tokens, sequences] = [0, 0, 0]
    const count = batches.count(0)
    for (let index = 0; index < count && sequences < limit; index++) {
      const batch = firstSequences(batches.at({ epoch: 0, index }).batch, limit - sequences)
      const loss = await evaluateBatch({ ...runtime, route }, batch, protection, signal)
      lossSum += loss.lossSum
      tokens += loss.countedTokens
      sequences += batch.ids.length
      yield { type: 'progress', sequences, tokens }
    }
    const loss = lossSum / tokens
    const { sentBytes, receivedBytes } = stream.traffic
    yield {
      type: 'result',
      loss: finite(loss),
      perplexity: finite(Math.exp(loss)),
      tokens,
      sequences,
      seconds: (Date.now() - startedAtMs) / 1000,
      ...found,
      sentBytes,
      receivedBytes
    }
  } finally {
    await stream.close()
  }
}

/** Returns a batch of the first `count` sequences of another at most. */
function firstSequences (batch: Batch, count: number): Batch {
  if (batch.ids.length <= count) return batch
  const targets = batch.targets.slice(0, count)
  const tokens = targets.flat().filter((id) => id !== IGNORED_TARGET).length
  return { ids: batch.ids.slice(0, count), targets, lengths: batch.lengths.slice(0, count), tokens }
}
