import type { Model } from '../../../model/families/index.ts'
import { maxChunkTokens } from '../../../model/generation/cache-size.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { fromServer, type ClientMessage, type GenerateServerChannel } from '../../../protocols/generate/messages.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../../protocols/wire/hidden-states.ts'
import type { Span } from '../../../span.ts'
import type { Arithmetic } from '../../middle/arithmetic.ts'
import { checkContext, checkServed } from '../checks.ts'
import type { EngineSequence, GenerationEngine } from './engine.ts'

export interface GenerationComponents {
  readonly charter: Charter
  readonly model: Model
  readonly engine: GenerationEngine
  /** The blocks that the server has. */
  readonly span: Span
  /** Resolves when the steps of this many rounds are in the adapters of the blocks. Throws AdaptersMissingError. */
  readonly ready: (round: number, signal: AbortSignal) => Promise<void>
  readonly arithmetic: Arithmetic
  /** The adapters of these blocks: the rounds whose step is in them, undefined while they change and before there are any. */
  readonly adapters: { readonly round: number | undefined }
}

/**
 * Serves one sequence until its stream ends, and frees its cache however that happens. A request is given up when the stream ends before
 * its answer.
 */
export async function serveGeneration (
  channel: GenerateServerChannel,
  components: GenerationComponents,
  signal: AbortSignal
): Promise<void> {
  const sequence = await begin(channel, components, await channel.receive(signal), signal)
  try {
    await channel.send(fromServer({ case: 'ready', value: components.arithmetic }))
    for (let next = channel.receive(signal);;) {
      const received = await next
      const ended = new AbortController()
      next = channel.receive(signal)
      next.catch((error: unknown) => { ended.abort(error) })
      await compute(channel, components, sequence, received, AbortSignal.any([signal, ended.signal]))
    }
  } finally {
    await sequence.close()
  }
}

async function begin (
  channel: GenerateServerChannel,
  { charter, engine, span: served, ready }: GenerationComponents,
  { message: { kind } }: Received<ClientMessage>,
  signal: AbortSignal
): Promise<EngineSequence> {
  if (kind.case !== 'begin') throw new BadMessageError('a generation stream begins with Begin')
  const { capacity, first, end, round } = kind.value
  if (capacity < 1 || capacity > charter.limits.maxSequenceTokens)
    throw new BadMessageError(`a sequence of ${capacity} tokens was asked for: the charter allows 1 to ${charter.limits.maxSequenceTokens}`)
  const span = checkServed(charter, served, { first, end })
  await ready(round, signal)
  return await engine.open(channel.sessionId, channel.remotePeer.toString(), span, capacity, signal)
}

async function compute (
  channel: GenerateServerChannel,
  { charter, model, adapters }: GenerationComponents,
  sequence: EngineSequence,
  { message: { kind }, tensors }: Received<ClientMessage>,
  signal: AbortSignal
): Promise<void> {
  if (kind.case !== 'rows') throw new BadMessageError('the message is of no known kind')
  const { position, count } = kind.value
  const { length, capacity } = sequence
  if (position > length) throw new BadMessageError(`position ${position} leaves a gap after ${length}`)
  if (count < 1 || position + count > capacity)
    throw new BadMessageError(`${count} hidden states from ${position} on do not fit a sequence of ${capacity}`)
  if (count > maxChunkTokens(model))
    throw new BadMessageError(`${count} hidden states came at once: of this model, which has windows, ${maxChunkTokens(model)} may`)
  if (!sequence.holds(position))
    throw new BadMessageError(`what hidden states from ${position} on attend to is forgotten; the sequence may begin again at 0`)
  const context = checkContext(model, kind.value)
  checkHiddenStates(tensors, { wire: charter.wire, hidden: charter.model.hidden, rows: count })
  sequence.rewind(position)
  const { round } = adapters
  const hidden = await sequence.forward({ context, tensors }, signal)
  const sameRound = round === adapters.round ? round : undefined
  await channel.send(fromServer({ case: 'hidden', value: { position, ...(sameRound === undefined ? {} : { round: sameRound }) } }), hidden)
}
