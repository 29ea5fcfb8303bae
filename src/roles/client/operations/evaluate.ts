import { z } from 'zod'
import { sequencesOf } from '../../../model/layers/hidden-states.ts'
import { fromClient } from '../../../protocols/train/messages.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { parseParameters } from '../../parameters.ts'
import { sequenceFields } from '../fields.ts'
import type { ClientRuntime } from '../runtime.ts'
import { dataSchema, loadBatches } from '../training/data.ts'

const parametersSchema = dataSchema.extend({
  /** Sequences at most. */
  limit: z.int().min(1).optional()
})

/** The loss on a data file, with the middle at the server and the labels here. */
export async function * evaluate (core: ClientRuntime, params: unknown, signal: AbortSignal): AsyncGenerator<object> {
  const { limit = Infinity, ...data } = parseParameters(parametersSchema, params)
  const { charter, client: { partition } } = core.context
  const { batches } = await loadBatches(data, core.tokenizer, charter, signal)
  const ends = core.clientEnds(core.context.client)
  const middle = { first: partition.inputBlocks, end: charter.model.blocks - partition.outputBlocks }
  const startedAtMs = Date.now()
  const channel = await core.openTraining(signal)
  try {
    await core.refresh(channel, signal)
    let [lossSum, tokens, sequences] = [0, 0, 0]
    const count = batches.count(0)
    for (let index = 0; index < count && sequences < limit; index++) {
      const { batch } = batches.at({ epoch: 0, index })
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
      loss,
      perplexity: Math.exp(loss),
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
