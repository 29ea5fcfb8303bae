import { z } from 'zod'
import { count, isoTime, span } from './fields.ts'

/** What came of checking one server's answers to a text. */
export const stageCheck = z.object({
  server: z.string().describe('the peer id of the server whose answers were checked'),
  blocks: span,
  verdict: z.enum(['agrees', 'wrong', 'differs', 'unchecked']).describe(
    'agrees: another server computed the same; wrong: one of the two computed wrong, as a third found; differs: they do not agree, and ' +
      'nobody could decide which is wrong; unchecked: nobody could compute the same'
  ),
  by: z.array(z.string()).readonly().describe('the servers that computed the same again'),
  wrong: z.string().nullable().describe('the server that computed wrong, where that was decided: routes leave it out from now on'),
  tokens: count.describe('tokens that were compared'),
  distance: z.number().nullable().describe('the middle one of the tokens\' distances between the first two servers'),
  greatest: z.number().nullable().describe('the greatest of these distances'),
  reason: z.string().nullable().describe('why nothing was compared, or nothing decided')
})

export type StageCheck = z.output<typeof stageCheck>

/** What a client's checks of servers came to. */
export const verification = z.object({
  share: z.number().describe('the share of texts that are checked'),
  checked: count.describe('stages of texts that were computed again and compared, since the start'),
  tokens: count.describe('tokens that were compared'),
  differing: count.describe('stages of which it was not decided who is wrong'),
  unchecked: count.describe('stages that were to be checked and that nobody could compute again, or that too many others came before'),
  caught: z.array(z.object({
    server: z.string().describe('a server that computed wrong: routes leave it out'),
    blocks: span,
    at: isoTime,
    tokens: count.describe('tokens that were compared'),
    distance: z.number().describe('the middle one of their distances')
  })).readonly()
})

export type VerificationStatus = z.output<typeof verification>
