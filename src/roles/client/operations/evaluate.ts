import { z } from 'zod'
import { protectionOf } from '../../charter-settings.ts'
import { parseParameters } from '../../parameters.ts'
import type { Client } from '../client.ts'
import { routeOf } from '../server-route.ts'
import { dataSchema, loadBatches } from '../training/data.ts'
import { evaluateBatch } from '../training/evaluation.ts'

const parametersSchema = dataSchema.extend({
  /** Sequences at most. */
  limit: z.int().min(1).optional()
})

/** The loss on a data file, with the middle at the server and the labels here. */
export async function * evaluate (
  { context, runtime, adapters, sessions }: Client,
  params: unknown,
  signal: AbortSignal
): AsyncGenerator<object> {
  const { limit = Infinity, ...data } = parseParameters(parametersSchema, params)
  const { charter } = context
  const { batches } = await loadBatches(data, runtime.tokenizer, charter, signal)
  const protection = protectionOf(charter, context.client).hidden
  const startedAtMs = Date.now()
  const stream = await sessions.training(signal)
  try {
    await adapters.refresh(stream, signal)
    const route = routeOf({ training: stream }, { charter, partition: context.client.partition })
    let [lossSum, tokens, sequences] = [0, 0, 0]
    const count = batches.count(0)
    for (let index = 0; index < count && sequences < limit; index++) {
      const { batch } = batches.at({ epoch: 0, index })
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
      loss,
      perplexity: Math.exp(loss),
      tokens,
      sequences,
      seconds: (Date.now() - startedAtMs) / 1000,
      sentBytes,
      receivedBytes
    }
  } finally {
    await stream.close()
  }
}
