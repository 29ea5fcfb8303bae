import { z } from 'zod'
import { count, span } from './fields.ts'
import { operation } from './operation.ts'

const load = z.object({
  sessions: count.describe('sealed sessions that are open'),
  queuedTokens: z.number().describe('tokens that wait for a run'),
  freeCacheBytes: z.number().describe('bytes of KV cache that may still be given out'),
  prefillTokensPerSecond: z.number().describe('tokens a second through its blocks, many at a time; 0 while nothing was measured'),
  decodeTokensPerSecond: z.number().describe('tokens a second through its blocks, one at a time; 0 while nothing was measured')
})

const placement = z.object({
  isDraining: z.boolean().describe('whether it is about to serve other blocks, and begins nothing new'),
  reason: z.string().nullable().describe('why it serves the blocks that it serves, or is about to serve others; null where it joined with them')
})

const server = z.object({
  peerId: z.string(),
  isSelf: z.boolean().describe('whether it is the peer that was asked'),
  isCoordinator: z.boolean().describe('whether it leads the rounds of training'),
  connected: z.boolean().describe('whether the peer that was asked has a connection to it'),
  blocks: span.nullable().describe('the blocks that it serves; null where nothing is known of them'),
  roundTripMs: z.number().nullable().describe('milliseconds of a message there and back, as measured last; null where nothing was measured'),
  load: load.nullable().describe('how much it has to do, as it says itself; null where it has not said'),
  placement: placement.nullable()
    .describe('of a server that chose its blocks by itself and moves where it is needed; null where it stays with them'),
  agent: z.string().nullable().describe('name and version of its release; null where it has not said'),
  addresses: z.array(z.string()).readonly().describe('multiaddrs at which it says that it can be dialled')
})

export type ServerLine = z.output<typeof server>

export const servers = operation({
  about: 'Tells who serves which blocks',
  parameters: z.strictObject({}),
  progress: {},
  result: z.object({
    servers: z.array(server).readonly(),
    middle: span.describe('the blocks that servers serve together'),
    coverage: z.array(z.object({ blocks: span, servers: count.describe('servers that serve each of these blocks') })).readonly()
      .describe('the middle from its first block to its last, cut where the number of servers changes; servers that are not connected count on workers alone'),
    missing: z.array(span).readonly().describe('the blocks of the middle that nobody serves')
  })
})
