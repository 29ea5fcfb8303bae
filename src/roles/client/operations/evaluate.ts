import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import type { Client } from '../client.ts'
import { foundIn, loadBatches } from '../training/data.ts'
import { finite } from './finite.ts'
import { measureLoss } from './measured-loss.ts'
import { MiddleBatches } from './middle-batches.ts'

/**
 * Measures the loss on a data file, with the middle at the server and the labels here. A connection that is lost is opened again, and the
 * evaluation goes on with the batch that was not answered, unless no batch is answered for `timeoutMs`.
 */
export async function * evaluate (
  client: Client,
  { limit = Infinity, timeoutMs, ...data }: ParametersOf<'evaluate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'evaluate'>> {
  const { context: { charter, paths }, runtime, gate } = client
  // Each record has a context of its own: its loss does not depend on its neighbours.
  const { dataset, batches } = await loadBatches({ ...data, packing: data.packing ?? 'padded' }, 'measure', paths.model, charter, signal)
  const found = foundIn(dataset)
  yield { type: 'start', records: dataset.examples.length, ...found }
  const startedAtMs = performance.now()
  const middle = new MiddleBatches(client, timeoutMs)
  try {
    const { lossSum, tokens, sequences } = yield * measureLoss({ ...runtime, gate }, middle, batches, limit, signal)
    const loss = lossSum / tokens
    yield {
      type: 'result',
      loss: finite(loss),
      perplexity: finite(Math.exp(loss)),
      tokens,
      sequences,
      seconds: (performance.now() - startedAtMs) / 1000,
      ...found,
      ...middle.traffic
    }
  } finally {
    await middle.close()
  }
}
