import { z } from 'zod'
import { created } from './fields.ts'

export const model = z.object({
  id: z.string().describe("the federation's name"),
  object: z.literal('model'),
  created,
  owned_by: z.string().describe('the peer id of the founder'),
  max_model_len: z.int().describe('tokens of a sequence at most, prompt and text together')
})

export const modelList = z.object({ object: z.literal('list'), data: z.array(model) })

export const health = z.object({ status: z.enum(['ok', 'unavailable']) })

export type Model = z.output<typeof model>
export type Health = z.output<typeof health>
