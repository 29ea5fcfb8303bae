import { z } from 'zod'
import { dataParameters } from './data.ts'
import { count, dataFound, finiteOrNull, traffic, waiting } from './fields.ts'
import { operation } from './operation.ts'

export const train = operation({
  about: 'Takes part in training until the rounds asked for are done',
  parameters: dataParameters.extend({
    rounds: z.int().min(1).default(100).describe('rounds of this client in total, those already done included'),
    noise: z.number().min(0).optional().describe('noise on hidden states, relative to the clip'),
    gradientNoise: z.number().min(0).optional().describe('noise on gradients, relative to the clip'),
    rewind: z.boolean().default(false)
      .describe("goes on from the server's rounds where this client has seen more, as after the server's state was restored"),
    fresh: z.boolean().default(false).describe('starts at the beginning of the data, and with initial adapters where they are not shared')
  }),
  progress: {
    start: z.object({
      type: z.literal('start'),
      round: count.describe("the federation's round when this client last took part"),
      done: count.describe('rounds that this run has done already'),
      rounds: count.describe('rounds of this run in total'),
      resumedFrom: count.optional().describe('rounds done when a run is resumed'),
      records: count.describe('records that are learnt from'),
      ...dataFound
    }),
    waiting,
    round: z.object({
      type: z.literal('round'),
      round: count.describe("the federation's round"),
      done: count.describe('rounds that this run has done'),
      rounds: count.describe('rounds of this run in total'),
      loss: finiteOrNull.describe("mean over the round's counted tokens, in nats"),
      tokens: count.describe('tokens that the loss counted'),
      tokensPerSecond: z.number().describe('tokens that the loss counted, a second'),
      inputTokens: count.describe('tokens that went through the model'),
      inputTokensPerSecond: z.number().describe('tokens that went through the model, a second'),
      ...traffic,
      clippedFraction: z.number().describe('the share of released hidden states that the clip shortened, 0 to 1'),
      leftOut: z.boolean().describe("whether this client missed the round's deadline, so that its work is not in the step"),
      members: count.describe('clients in the round')
    })
  },
  result: z.object({
    type: z.literal('done'),
    rounds: count.describe('rounds done in total'),
    loss: finiteOrNull.describe('of the last round; null where there was nothing left to do'),
    seconds: z.number(),
    ...traffic
  })
})
