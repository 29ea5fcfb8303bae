import { randomUUID } from 'node:crypto'
import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { Backoff } from '../../../backoff.ts'
import { isRetryable } from '../../../errors.ts'
import { IGNORED_TARGET, type Batch } from '../../../model/text/batches.ts'
import { ChannelTimeoutError } from '../../../protocols/wire/errors.ts'
import type { Tensor } from '../../../tensor.ts'
import { protectionOf } from '../../charter-settings.ts'
import type { TrainingStream } from '../../middle/training-stream.ts'
import type { Client } from '../client.ts'
import { routeOf } from '../server-route.ts'
import { TrafficMeter } from '../traffic.ts'
import { foundIn, loadBatches } from '../training/data.ts'
import { lossOf, releaseBatch, type ReleasedBatch } from '../training/evaluation.ts'
import { finite } from './finite.ts'

/** A server that restarts is back within seconds. */
const RECONNECT = { firstMs: 200, greatestMs: 5_000 }

/**
 * Measures the loss on a data file, with the middle at the server and the labels here. A connection that is lost is opened again, and the
 * evaluation goes on with the batch that was not answered, unless no batch is answered for `timeoutMs`.
 */
export async function * evaluate (
  { context, runtime, ledger, adapters, sessions }: Client,
  { limit = Infinity, timeoutMs, ...data }: ParametersOf<'evaluate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'evaluate'>> {
  const { charter, client: { partition } } = context
  // Each record has a context of its own: its loss does not depend on its neighbours.
  const { dataset, batches } = await loadBatches({ ...data, packing: data.packing ?? 'padded' }, context.paths.model, charter, signal)
  const found = foundIn(dataset)
  yield { type: 'start', records: dataset.examples.length, ...found }
  const protection = protectionOf(charter, context.client)
  const evaluation = randomUUID()
  const startedAtMs = Date.now()
  const traffic = new TrafficMeter()
  const backoff = new Backoff(RECONNECT)
  let stream: TrainingStream | undefined
  const connect = async (until: AbortSignal): Promise<TrainingStream> => {
    if (stream !== undefined) return stream
    stream = traffic.watch(await sessions.training(until))
    await adapters.refresh(stream, until)
    return stream
  }
  try {
    let [lossSum, tokens, sequences] = [0, 0, 0]
    const count = batches.count(0)
    for (let index = 0; index < count && sequences < limit; index++) {
      const batch = firstSequences(batches.at({ epoch: 0, index }).batch, limit - sequences)
      let released: ReleasedBatch | undefined
      let outputs: readonly Tensor[] | undefined
      let last: Error | undefined
      const limitOfBatch = AbortSignal.timeout(timeoutMs)
      const until = AbortSignal.any([signal, limitOfBatch])
      while (outputs === undefined) {
        try {
          const route = routeOf({ training: await connect(until) }, { charter, partition })
          released ??= await releaseBatch({ ...runtime, ledger }, batch, protection, {
            evaluation, index, recordRows: batches.changedByOne(batch)
          })
          const { batch: _, kept: __, ...item } = released
          outputs = await route.evaluate({ id: 'self', ...route.span, ...item }, until)
        } catch (error) {
          stream?.abort(asError(error))
          stream = undefined
          signal.throwIfAborted()
          if (limitOfBatch.aborted) throw last ?? new ChannelTimeoutError('the server did not answer', timeoutMs)
          if (!isRetryable(error)) throw error
          last = asError(error)
          yield { type: 'waiting', reason: `the connection was lost (${last.message}); trying again` }
          await backoff.wait(until).catch(() => {}) // the next try says why there is none
        }
      }
      backoff.reset()
      const loss = await lossOf(runtime, released!, outputs)
      lossSum += loss.lossSum
      tokens += loss.countedTokens
      sequences += batch.ids.length
      yield { type: 'progress', sequences, tokens }
    }
    const loss = lossSum / tokens
    yield {
      type: 'result',
      loss: finite(loss),
      perplexity: finite(Math.exp(loss)),
      tokens,
      sequences,
      seconds: (Date.now() - startedAtMs) / 1000,
      ...found,
      ...traffic.total
    }
  } finally {
    await stream?.close()
  }
}

function asError (error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}

/** Returns a batch of the first `count` sequences of another at most. */
function firstSequences (batch: Batch, count: number): Batch {
  if (batch.ids.length <= count) return batch
  const targets = batch.targets.slice(0, count)
  const tokens = targets.flat().filter((id) => id !== IGNORED_TARGET).length
  return { ids: batch.ids.slice(0, count), targets, lengths: batch.lengths.slice(0, count), tokens }
}
