import { z } from 'zod'
import { count, timeoutMs, waiting } from './fields.ts'
import { operation } from './operation.ts'

const partitionFields = {
  inputBlocks: count.describe('blocks after the embedding'),
  outputBlocks: count.describe('blocks before the head')
}

export const partition = operation({
  about: 'Changes the blocks that this client holds, between two rounds where training runs',
  parameters: z.strictObject({
    inputBlocks: count.optional().describe('blocks to keep after the embedding; as they are unless given'),
    outputBlocks: count.optional().describe('blocks to keep before the head; as they are unless given'),
    discard: z.boolean().default(false)
      .describe('whether what this client alone has learnt in blocks that it gives up may be lost'),
    timeoutMs
  }),
  progress: {
    waiting,
    fetch: z.object({
      type: z.literal('fetch'),
      totalBytes: count.describe('bytes of weights to fetch'),
      doneBytes: count.describe('bytes fetched so far')
    })
  },
  result: z.object({
    type: z.literal('done'),
    before: z.object(partitionFields).describe('the partition until now'),
    partition: z.object(partitionFields).describe('the partition from now on'),
    blocks: count.describe('blocks of the model'),
    tensors: count.describe('tensors held'),
    tensorBytes: count.describe('bytes of these tensors'),
    fetchedBytes: count.describe('bytes that came over the network'),
    noiseCost: z.string().nullable().describe("what this client's noise on hidden states costs at the new cut; null where nobody measured it"),
    note: z.string().nullable().describe('in which way training does not go on exactly; null where it does')
  })
})
