import { z } from 'zod'
import { dataParameters } from './data.ts'
import { count, dataFound, finiteOrNull, timeoutMs, traffic, waiting } from './fields.ts'
import { operation } from './operation.ts'

export const evaluate = operation({
  about: 'Measures the loss on a data file',
  parameters: dataParameters.extend({
    limit: z.int().min(1).optional().describe('sequences in all, at most'),
    timeoutMs
  }),
  progress: {
    start: z.object({ type: z.literal('start'), records: count.describe('records that are evaluated'), ...dataFound }),
    waiting,
    progress: z.object({
      type: z.literal('progress'),
      sequences: count.describe('sequences so far'),
      tokens: count.describe('counted tokens so far')
    })
  },
  result: z.object({
    type: z.literal('result'),
    loss: finiteOrNull.describe('mean over the counted tokens, in nats'),
    perplexity: finiteOrNull.describe('e to the power of the loss'),
    tokens: count.describe('tokens that the loss counted'),
    sequences: count,
    seconds: z.number(),
    ...dataFound,
    ...traffic
  })
})
