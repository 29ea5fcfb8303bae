import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { sequencesOf } from '../../../model/layers/hidden-states.ts'
import { IGNORED_TARGET, type Batch } from '../../../model/text/batches.ts'
import { fromClient } from '../../../protocols/train/messages.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { sequenceFields } from '../fields.ts'
import type { ClientRuntime } from '../runtime.ts'
import { loadBatches } from '../training/data.ts'
import { finite } from './finite.ts'

/** Measures the loss on a data file, with the middle at the server and the labels here. */
export async function * evaluate (
  core: ClientRuntime,
  { limit = Infinity, timeoutMs: _, ...data }: ParametersOf<'evaluate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'evaluate'>> {
  const { charter, client: { partition } } = core.context
  const { dataset, batches } = await loadBatches(data, core.tokenizer, charter, signal)
  yield { type: 'start', records: dataset.examples.length, skippedLines: dataset.badLines }
  const ends = core.clientEnds(core.context.client)
  const middle = { first: partition.inputBlocks, end: charter.model.blocks - partition.outputBlocks }
  const startedAtMs = Date.now()
  const channel = await core.openTraining(signal)
  try {
    await core.refresh(channel, signal)
    let [lossSum, tokens, sequences] = [0, 0, 0]
    const count = batches.count(0)
    for (let index = 0; index < count && sequences < limit; index++) {
      const batch = firstSequences(batches.at({ epoch: 0, index }).batch, limit - sequences)
      await channel.send(
        fromClient({ case: 'evaluate', value: { request: index, middle, ...sequenceFields(sequencesOf(core.model, batch.ids)) } }),
        await ends.release(batch.ids),
        signal
      )
      const { message: { kind }, tensors } = await channel.receive(signal)
      if (kind.case !== 'evaluated' || kind.value.request !== index)
        throw new BadMessageError('the server answered something else than it was asked')
      const loss = await ends.evaluate(batch, tensors)
      lossSum += loss.lossSum
      tokens += loss.countedTokens
      sequences += batch.ids.length
      yield { type: 'progress', sequences, tokens }
    }
    const loss = lossSum / tokens
    const { sentBytes, receivedBytes } = channel.traffic
    yield {
      type: 'result',
      loss: finite(loss),
      perplexity: finite(Math.exp(loss)),
      tokens,
      sequences,
      seconds: (Date.now() - startedAtMs) / 1000,
      sentBytes,
      receivedBytes
    }
  } finally {
    await channel.close()
  }
}

/** Returns a batch of the first `count` sequences of another at most. */
function firstSequences (batch: Batch, count: number): Batch {
  if (batch.ids.length <= count) return batch
  const targets = batch.targets.slice(0, count)
  const tokens = targets.flat().filter((id) => id !== IGNORED_TARGET).length
  return { ids: batch.ids.slice(0, count), targets, lengths: batch.lengths.slice(0, count), tokens }
}
