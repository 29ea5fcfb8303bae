import { z } from 'zod'
import { count, isoTime, span } from './fields.ts'
import { operation } from './operation.ts'

const peer = z.object({
  peerId: z.string(),
  role: z.string(),
  agent: z.string(),
  blocks: span.nullable().describe('the blocks that it serves'),
  roundTripMs: z.number().nullable().describe('null where it did not answer in time'),
  path: z.enum(['direct', 'relayed']),
  sessions: count.describe('open sessions'),
  since: isoTime.describe('when it was greeted: ISO 8601'),
  address: z.string()
})

export type PeerLine = z.output<typeof peer>

export const peers = operation({
  about: 'Lists the peers that are connected',
  parameters: z.strictObject({}),
  progress: {},
  result: z.object({ peers: z.array(peer).readonly() })
})
