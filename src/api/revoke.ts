import { z } from 'zod'
import { operation } from './operation.ts'

export const revoke = operation({
  about: 'Takes an invite back',
  parameters: z.strictObject({
    invite: z.string().regex(/^[0-9a-f]{4,32}$/, 'the id of an invite is 4 to 32 hexadecimal digits')
      .describe('the id of the invite, or the beginning of it')
  }),
  progress: {},
  result: z.object({ revoked: z.string().describe('the id of the invite') })
})
