import { z } from 'zod'
import { operation } from './operation.ts'

export const remove = operation({
  about: "Takes a peer's place in the federation away",
  parameters: z.strictObject({
    peer: z.string().regex(/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/, 'the peer is not an Ed25519 peer id').describe("the peer's id")
  }),
  progress: {},
  result: z.object({
    removed: z.string(),
    openInvites: z.array(z.string()).readonly().optional().describe('ids of invites that the peer joined with and others can still use')
  })
})
