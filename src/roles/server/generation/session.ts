import type { Model, PromptContext } from '../../../model/families/index.ts'
import { maxChunkTokens } from '../../../model/generation/cache-size.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { fromServer, type Begin, type ClientMessage, type GenerateServerChannel } from '../../../protocols/generate/messages.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError, ChannelTimeoutError } from '../../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../../protocols/wire/hidden-states.ts'
import type { Span } from '../../../span.ts'
import type { Arithmetic } from '../../middle/arithmetic.ts'
import { checkContext, checkServed } from '../checks.ts'
import type { EngineSequence, GenerationEngine } from './engine.ts'
import type { Handovers } from './handovers.ts'
import { SequencePath, type Rows } from './sequence-path.ts'

/** What a session uses of a sequence. */
export type ServedSequence = Pick<EngineSequence, 'length' | 'capacity' | 'holds' | 'rewind' | 'forward' | 'close'>

export interface GenerationComponents {
  readonly charter: Charter
  readonly model: Model
  readonly engine: { open: (...parameters: Parameters<GenerationEngine['open']>) => Promise<ServedSequence> }
  /** The blocks that the server has. */
  readonly span: Span
  /** Resolves when the steps of this many rounds are in the adapters of the blocks. Throws AdaptersMissingError. */
  readonly ready: (round: number, signal: AbortSignal) => Promise<void>
  readonly handovers: Handovers
  readonly arithmetic: Arithmetic
  /** The adapters of these blocks: the rounds whose step is in them, undefined while they change and before there are any. */
  readonly adapters: { readonly round: number | undefined }
  /** How long a session may wait for hidden states. */
  readonly idleTimeoutMs: number
  /** The share of a client beside those of others, as its invite says. */
  readonly weightOf: (peer: string) => number
}

/** The most that a time in a message can be. */
const MAX_US = 2 ** 32 - 1

/**
 * Serves one sequence until its stream ends, and frees its cache however that happens. A request is given up when the stream ends before
 * its answer. Where the client says so, hidden states come from another server and go on to another one; what goes wrong with these ends
 * the client's session, with a HandoverError.
 */
export async function serveGeneration (
  channel: GenerateServerChannel,
  components: GenerationComponents,
  stopped: AbortSignal
): Promise<void> {
  const { engine, handovers, ready, arithmetic, adapters, idleTimeoutMs, weightOf } = components
  const ended = new AbortController()
  const signal = AbortSignal.any([stopped, ended.signal])
  const idle = setTimeout(() => { ended.abort(new ChannelTimeoutError('nothing was received', idleTimeoutMs)) }, idleTimeoutMs)
  const path = new SequencePath(channel, ended, signal)
  let sequence: ServedSequence | undefined
  try {
    const { to, from, capacity, round, batch, ...span } = beginOf(components, await channel.receive(signal))
    await ready(round, signal)
    const client = channel.remotePeer.toString()
    const service = { weight: weightOf(client), priority: batch ? 'batch' : 'interactive' } as const
    sequence = await engine.open(channel.sessionId, client, span, capacity, { ...service, signal })
    await path.open({ to, from }, handovers)
    await channel.send(fromServer({ case: 'ready', value: { ...arithmetic, handsOver: path.handsOver } }))
    await path.begin()
    for (;;) {
      const rows = await path.receive()
      const startedAtMs = performance.now()
      idle.refresh()
      const opened = sequence
      const context = path.checked(() => check(components, opened, rows))
      sequence.rewind(rows.position)
      const { round: before } = adapters
      const hidden = await sequence.forward({ context, tensors: rows.tensors }, signal)
      const ownUs = Math.min(Math.round(1000 * (performance.now() - startedAtMs)), MAX_US)
      await path.send(rows, { hidden, round: before === adapters.round ? before : undefined, stageUs: [...rows.stageUs, ownUs] })
    }
  } catch (error) {
    const reason = signal.aborted ? signal.reason as unknown : error
    path.end(reason)
    throw reason
  } finally {
    clearTimeout(idle)
    await sequence?.close()
  }
}

/** Reads what a client asks for. Throws BadMessageError, and SpanNotServedError. */
function beginOf (
  { charter, span: served }: GenerationComponents,
  { message: { kind } }: Received<ClientMessage>
): Pick<Begin, 'to' | 'from' | 'capacity' | 'round' | 'batch'> & Span {
  if (kind.case !== 'begin') throw new BadMessageError('a generation stream begins with Begin')
  const { capacity, round, batch, to, from, ...span } = kind.value
  if (capacity < 1 || capacity > charter.limits.maxSequenceTokens)
    throw new BadMessageError(`a sequence of ${capacity} tokens was asked for: the charter allows 1 to ${charter.limits.maxSequenceTokens}`)
  return { to, from, capacity, round, batch, ...checkServed(charter, served, span) }
}

/** Checks hidden states against the sequence. Returns their context, where the model has contexts. Throws BadMessageError. */
function check (
  { charter, model }: GenerationComponents,
  sequence: ServedSequence,
  { tensors, ...place }: Rows
): PromptContext | undefined {
  const { position, count } = place
  const { length, capacity } = sequence
  if (position > length) throw new BadMessageError(`position ${position} leaves a gap after ${length}`)
  if (count < 1 || position + count > capacity)
    throw new BadMessageError(`${count} hidden states from ${position} on do not fit a sequence of ${capacity}`)
  if (count > maxChunkTokens(model))
    throw new BadMessageError(`${count} hidden states came at once: of this model, which has windows, ${maxChunkTokens(model)} may`)
  if (!sequence.holds(position))
    throw new BadMessageError(`what hidden states from ${position} on attend to is forgotten; the sequence may begin again at 0`)
  const context = checkContext(model, place)
  checkHiddenStates(tensors, { wire: charter.wire, hidden: charter.model.hidden, rows: count })
  return context
}
