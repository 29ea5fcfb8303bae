import { z } from 'zod'
import { count, isoTime } from './fields.ts'
import { operation } from './operation.ts'

export const invites = operation({
  about: 'Lists the invites that can still be used',
  parameters: z.strictObject({}),
  progress: {},
  result: z.object({
    invites: z.array(z.object({
      id: z.string().describe('what the invite is revoked by'),
      role: z.enum(['client', 'server']),
      expires: isoTime,
      usesLeft: count,
      usedBy: z.array(z.string()).readonly().describe('ids of the peers that joined with it')
    })).readonly()
  })
})
