import { z } from 'zod'
import { isoTime } from './fields.ts'
import { MAX_INVITE_MS } from './invite.ts'
import { operation } from './operation.ts'

export const entrust = operation({
  about: "Lets a server lead in the founder's place one day",
  parameters: z.strictObject({
    peer: z.string().regex(/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/, 'the peer is not an Ed25519 peer id').describe("the server's peer id"),
    expiresMs: z.int().positive().max(MAX_INVITE_MS, 'a mandate expires within ten years').describe('milliseconds until it may do so no more')
  }),
  progress: {},
  result: z.object({ entrusted: z.string(), expires: isoTime })
})
