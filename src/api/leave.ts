import { z } from 'zod'
import { timeoutMs } from './fields.ts'
import { operation } from './operation.ts'

export const leave = operation({
  about: 'Leaves the federation',
  parameters: z.strictObject({ timeoutMs }),
  progress: {},
  result: z.object({
    left: z.string().describe("the federation's id"),
    told: z.array(z.string()).readonly().describe('servers that know of it')
  })
})
