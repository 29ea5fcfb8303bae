import { z } from 'zod'
import { dataParameters } from './data.ts'
import { count, dataFound, finiteOrNull, traffic, waiting } from './fields.ts'
import { operation } from './operation.ts'

/** Passes over the data that a run may ask for: far more than any fine-tuning needs. */
export const MAX_EPOCHS = 10_000

/** Peers that a user may name as contributors of secure sums: more than a federation has members. */
export const MAX_NAMED_CONTRIBUTORS = 4096

export const train = operation({
  about: 'Takes part in training until the rounds asked for are done',
  parameters: dataParameters.extend({
    rounds: z.int().min(1).default(100).describe('rounds of this client in total, those already done included'),
    epochs: z.int().min(1).max(MAX_EPOCHS).optional().describe('passes over the data, in place of rounds'),
    evalData: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).readonly()]).optional()
      .describe('paths of data that is held out, on which the loss is measured during the run'),
    evalEvery: z.int().min(1).default(10).describe('rounds from one such evaluation to the next'),
    patience: z.int().min(1).optional().describe('evaluations in a row without a smaller loss after which the run ends'),
    noise: z.number().min(0).optional().describe('noise on hidden states, relative to the clip'),
    gradientNoise: z.number().min(0).optional().describe('noise on gradients, relative to the clip'),
    contributors: z.array(z.string().min(1)).min(1).max(MAX_NAMED_CONTRIBUTORS).readonly().optional()
      .describe('peers that may be in a secure sum with this client; any other that is named ends the run before anything is contributed'),
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
      gradientNorm: finiteOrNull.optional().describe("the norm of the mean gradient of this client's own blocks, before it is clipped"),
      ...traffic,
      clippedFraction: z.number().describe('the share of released hidden states that the clip shortened, 0 to 1'),
      leftOut: z.boolean().describe("whether this client missed the round's deadline, so that its work is not in the step"),
      members: count.describe('clients in the round')
    }),
    evaluation: z.object({
      type: z.literal('evaluation'),
      done: count.describe('rounds that this run had done; 0 before the first'),
      loss: finiteOrNull.describe('mean over the counted tokens of the data that is held out, in nats'),
      tokens: count.describe('tokens that the loss counted'),
      best: z.boolean().describe('whether it is the smallest loss of the run so far'),
      kept: z.string().optional().describe('the directory in which the adapters of the best evaluation are')
    })
  },
  result: z.object({
    type: z.literal('done'),
    rounds: count.describe('rounds done in total'),
    loss: finiteOrNull.describe('of the last round; null where there was nothing left to do'),
    seconds: z.number(),
    ...traffic,
    run: z.string().optional().describe("the directory of the run's log"),
    stoppedEarly: z.boolean().optional().describe('whether the run ended because evaluations brought nothing any more'),
    best: z.object({
      done: count.describe('rounds that were done then'),
      loss: z.number()
    }).optional().describe('the best evaluation on the data that is held out')
  })
})
