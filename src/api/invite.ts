import { z } from 'zod'
import { count, isoTime } from './fields.ts'
import { operation } from './operation.ts'

/** A longer life is as good as for ever. */
export const MAX_INVITE_MS = 10 * 365 * 24 * 3_600_000

/** A weight at most: whoever has it is served as much as so many others together. */
export const MAX_WEIGHT = 100

export const invite = operation({
  about: 'Makes an invite',
  parameters: z.strictObject({
    role: z.enum(['client', 'server']),
    expiresMs: z.int().positive().max(MAX_INVITE_MS, 'an invite expires within ten years').describe('milliseconds until it expires'),
    uses: z.int().min(1).max(10_000).describe('how many peers can join with it'),
    weight: z.int().min(1).max(MAX_WEIGHT).optional().describe(
      'the share of servers that texts of the holder have, beside one of 1: 2 for twice as many tokens where they compete; 1 when left out'
    )
  }),
  progress: {},
  result: z.object({
    invite: z.string().describe('the line to hand over: a secret'),
    id: z.string().describe('what the invite is revoked by'),
    role: z.enum(['client', 'server']),
    expires: isoTime,
    uses: count,
    weight: count.describe("the share of servers that the holder's texts have"),
    addresses: z.array(z.string()).readonly().describe('where the holder will dial'),
    warning: z.string().nullable().describe(
      'from where the addresses cannot be reached, or which were left out; null where nothing is amiss'
    )
  })
})
