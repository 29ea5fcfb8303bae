import { z } from 'zod'
import { dataParameters } from './data.ts'
import { count, dataFound, finiteOrNull, timeoutMs, traffic, waiting } from './fields.ts'
import { operation } from './operation.ts'
import { metricNames, task, taskKinds } from './task.ts'

const metric = z.enum(metricNames)

export const evaluateTask = operation({
  about: 'Has the model answer the records of a data file as a task asks them, and judges the answers',
  parameters: dataParameters.omit({ packing: true, sequences: true, withhold: true }).extend({
    task,
    limit: z.int().min(1).optional().describe('records at most; of more, as many are drawn by the seed'),
    after: count.default(0).describe('begins after the record of this number, as where an evaluation was cut off'),
    texts: z.int().min(1).max(64).default(4).describe('texts that are generated at once'),
    timeoutMs
  }),
  progress: {
    start: z.object({
      type: z.literal('start'),
      records: count.describe('records that are evaluated'),
      labels: z.array(z.string()).readonly().optional().describe('classify: the labels that are compared'),
      unseenLabels: z.array(z.string()).readonly().optional().describe('classify: those among them that no record has'),
      ...dataFound
    }),
    waiting,
    progress: z.object({ type: z.literal('progress'), tokens: count.describe('tokens generated so far') }),
    prediction: z.object({
      type: z.literal('prediction'),
      record: z.int().min(1).describe('the number of the record in the data, from 1'),
      file: z.string().optional().describe('the file, where there are several'),
      line: z.int().min(1).describe('the line, or the row where a format has rows, counted from 1'),
      kind: z.enum(taskKinds),
      metrics: z.array(metric).readonly().describe('what the task is judged by'),
      references: z.array(z.string()).readonly().describe('the right answers'),
      prediction: z.string().optional().describe("the model's answer"),
      logLikelihoods: z.record(z.string(), finiteOrNull).optional()
        .describe('the log-likelihood of each answer that was compared, with the token that ends it, in nats'),
      loss: finiteOrNull.optional().describe('chat: the sum over the counted tokens, in nats'),
      tokens: count.optional().describe('chat: tokens that the loss counted')
    })
  },
  result: z.object({
    type: z.literal('result'),
    kind: z.enum(taskKinds),
    records: count.describe('records that were evaluated'),
    metrics: z.array(z.object({
      metric,
      value: finiteOrNull,
      low: finiteOrNull.describe('where the 95 % interval begins, by a bootstrap over the records'),
      high: finiteOrNull.describe('where it ends')
    })).readonly(),
    baselines: z.array(z.object({
      name: z.string(),
      metrics: z.array(z.object({ metric, value: finiteOrNull })).readonly()
    })).readonly().describe('what knows nothing of the texts: the most frequent answer, chance, or the beginning of each text'),
    seconds: z.number(),
    ...dataFound,
    ...traffic
  })
})
