import { z } from 'zod'
import { count, timeoutMs, waiting } from './fields.ts'
import { operation } from './operation.ts'

export const exportTrained = operation({
  about: 'Writes what was trained as a PEFT adapter or as a merged model',
  parameters: z.strictObject({
    out: z.string().min(1).describe('the path of the directory to write'),
    merged: z.boolean().default(false).describe('the whole model with what was trained in it, in place of an adapter'),
    model: z.string().min(1).optional().describe("the base model's directory, where this peer does not have the whole model"),
    baseModel: z.string().min(1).optional().describe('what the adapter names as its base model'),
    force: z.boolean().default(false).describe('replaces the files of an adapter that stand in the directory'),
    timeoutMs
  }),
  progress: {
    fetched: z.object({ type: z.literal('fetched'), round: count, tensors: count.describe('trained tensors') }),
    waiting
  },
  result: z.object({
    type: z.literal('done'),
    format: z.enum(['peft', 'merged']),
    round: count.describe('the round that the values are of'),
    parameters: count.describe('numbers that were trained'),
    directory: z.string(),
    tensors: count.describe('tensors written'),
    baseModel: z.string().nullable().optional().describe('peft: what the adapter names as its base model; null where nothing is known'),
    changed: count.optional().describe('merged: tensors that training changed'),
    bytes: count.optional().describe('merged: bytes of the tensors')
  })
})
