import { GENERATE_PROTOCOL, MAX_GENERATE_STREAMS } from '../../../protocols/generate/constants.ts'
import * as generate from '../../../protocols/generate/messages.ts'
import { HANDOVER_PROTOCOL, MAX_HANDOVER_STREAMS } from '../../../protocols/handover/constants.ts'
import * as handover from '../../../protocols/handover/messages.ts'
import { generateLimits, handoverLimits } from '../../message-limits.ts'
import type { Sessions } from '../sessions.ts'
import { serveGeneration, type GenerationComponents } from './session.ts'

/** Serves the sequences of clients, and takes those that other servers hand over. */
export async function serveSequences (sessions: Sessions, components: GenerationComponents): Promise<void> {
  const { charter, handovers } = components
  await sessions.serve(HANDOVER_PROTOCOL, {
    outgoing: handover.TakerMessageSchema,
    incoming: handover.GiverMessageSchema,
    limits: handoverLimits(charter),
    maxStreams: MAX_HANDOVER_STREAMS,
    maxSessions: MAX_HANDOVER_STREAMS,
    idleTimeoutMs: Infinity // the session that is claimed has a limit of its own
  }, async (channel, signal) => { await handovers.serve(channel, signal) })
  await sessions.serve(GENERATE_PROTOCOL, {
    outgoing: generate.ServerMessageSchema,
    incoming: generate.ClientMessageSchema,
    limits: generateLimits(charter),
    maxStreams: MAX_GENERATE_STREAMS,
    idleTimeoutMs: Infinity // a client whose servers hand over is silent: what counts is when hidden states come
  }, async (channel, signal) => { await serveGeneration(channel, components, signal) })
}
