import { setTimeout as delay } from 'node:timers/promises'
import type { Model, PromptContext } from '../../../model/families/index.ts'
import { maxChunkTokens } from '../../../model/generation/cache-size.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { fromServer, type Begin, type ClientMessage, type GenerateServerChannel } from '../../../protocols/generate/messages.ts'
import { MAX_CHAIN_SERVERS } from '../../../protocols/handover/constants.ts'
import { HandoverError, type NeighbourSide } from '../../../protocols/handover/errors.ts'
import { fromGiver, type GiverMessage, type HandoverGiverChannel } from '../../../protocols/handover/messages.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError, ChannelClosedError, ChannelTimeoutError } from '../../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../../protocols/wire/hidden-states.ts'
import { withSignal } from '../../../protocols/wire/wait.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { Arithmetic } from '../../middle/arithmetic.ts'
import { checkContext, checkServed, type PlaceFields } from '../checks.ts'
import type { Expected } from './claims.ts'
import type { EngineSequence, GenerationEngine } from './engine.ts'
import type { Handovers, PreviousServer } from './handovers.ts'

export interface GenerationComponents {
  readonly charter: Charter
  readonly model: Model
  readonly engine: GenerationEngine
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
}

/** A client that ends a sequence says goodbye to all of its servers; a neighbour's goodbye may come first by so much. */
const GOODBYE_GRACE_MS = 2_000

/** The most that a time in a message can be. */
const MAX_US = 2 ** 32 - 1

/** Hidden states that came, from the client or from the server before. */
interface Rows extends PlaceFields {
  readonly tensors: readonly Tensor[]
  /** Microseconds of the servers before. */
  readonly stageUs: readonly number[]
}

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
  const ended = new AbortController()
  const signal = AbortSignal.any([stopped, ended.signal])
  const idle = setTimeout(() => {
    ended.abort(new ChannelTimeoutError('nothing was received', components.idleTimeoutMs))
  }, components.idleTimeoutMs)
  try {
    const { to, from, capacity, round, ...span } = beginOf(components, await channel.receive(signal))
    const { engine, handovers, ready, arithmetic, adapters } = components
    await ready(round, signal)
    const sequence = await engine.open(channel.sessionId, channel.remotePeer.toString(), span, capacity, signal)
    let expected: Expected<PreviousServer> | undefined
    let previous: PreviousServer | undefined
    let next: HandoverGiverChannel | undefined
    try {
      expected = from === undefined ? undefined : handovers.expect(from)
      next = to === undefined ? undefined : await handovers.open(to, signal)
      await channel.send(fromServer({ case: 'ready', value: { ...arithmetic, handsOver: to !== undefined || from !== undefined } }))
      if (next !== undefined) {
        const said = next.receive(signal).then(() => { throw new BadMessageError('it answered where nothing was asked') })
        endWith(ended, lostWith(said, 'next', next.remotePeer.toString(), signal))
      }
      let receive = async (): Promise<Rows> => rowsOfClient(await channel.receive(signal))
      if (expected !== undefined && from !== undefined) {
        endWith(ended, channel.receive(signal).then(() => { throw new BadMessageError('the hidden states were to come from a server') }))
        previous = await withSignal(expected.claimed, signal).catch((error: unknown) => {
          throw signal.aborted ? error : new HandoverError('previous', from.peer, error)
        })
        const { channel: source } = previous
        receive = async () => await lostWith(source.receive(signal).then(rowsOfServer), 'previous', from.peer, signal)
      }
      for (let upcoming = receive();;) {
        const rows = await upcoming
        const startedAtMs = performance.now()
        idle.refresh()
        upcoming = receive()
        endWith(ended, upcoming)
        const context = blaming(from?.peer, () => check(components, sequence, rows))
        sequence.rewind(rows.position)
        const { round: roundBefore } = adapters
        const hidden = await sequence.forward({ context, tensors: rows.tensors }, signal)
        const sameRound = roundBefore === adapters.round ? roundBefore : undefined
        const stageUs = [...rows.stageUs, Math.min(Math.round(1000 * (performance.now() - startedAtMs)), MAX_US)]
        const { position, count, contextLength, maskPosition } = rows
        if (next === undefined) {
          await channel.send(fromServer({ case: 'hidden', value: { position, round: sameRound, stageUs } }), hidden)
        } else {
          const handed = next.send(fromGiver({ case: 'rows', value: { position, count, contextLength, maskPosition, stageUs } }), hidden)
          await lostWith(handed, 'next', next.remotePeer.toString(), signal)
        }
      }
    } catch (error) {
      const reason = signal.aborted ? signal.reason as unknown : error
      const isGoodbye = reason instanceof ChannelClosedError
      for (const neighbour of [previous?.channel, next]) {
        if (isGoodbye) void neighbour?.close().catch(() => {}) // it is closed all the same
        else neighbour?.abort(reason instanceof Error ? reason : new Error(String(reason)))
      }
      throw reason
    } finally {
      expected?.cancel()
      void expected?.claimed.then((claimant) => { claimant.release() }, () => {}) // nobody came
      await sequence.close()
    }
  } finally {
    clearTimeout(idle)
  }
}

/** Reads what a client asks for. Throws BadMessageError, and SpanNotServedError. */
function beginOf (
  { charter, span: served }: GenerationComponents,
  { message: { kind } }: Received<ClientMessage>
): Pick<Begin, 'to' | 'from' | 'capacity' | 'round'> & Span {
  if (kind.case !== 'begin') throw new BadMessageError('a generation stream begins with Begin')
  const { capacity, round, to, from, ...span } = kind.value
  if (capacity < 1 || capacity > charter.limits.maxSequenceTokens)
    throw new BadMessageError(`a sequence of ${capacity} tokens was asked for: the charter allows 1 to ${charter.limits.maxSequenceTokens}`)
  return { to, from, capacity, round, ...checkServed(charter, served, span) }
}

function rowsOfClient ({ message: { kind }, tensors }: Received<ClientMessage>): Rows {
  if (kind.case !== 'rows') throw new BadMessageError('the message is of no known kind')
  return { ...kind.value, tensors, stageUs: [] }
}

function rowsOfServer ({ message: { kind }, tensors }: Received<GiverMessage>): Rows {
  if (kind.case !== 'rows') throw new BadMessageError('the message is of no known kind')
  if (kind.value.stageUs.length >= MAX_CHAIN_SERVERS) throw new BadMessageError(`a chain of more than ${MAX_CHAIN_SERVERS} servers`)
  return { ...kind.value, tensors }
}

/** Checks hidden states against the sequence. Returns their context, where the model has contexts. Throws BadMessageError. */
function check (
  { charter, model }: GenerationComponents,
  sequence: EngineSequence,
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

/** Does something with what a neighbour sent. Throws HandoverError where that is no good. */
function blaming<Result> (peer: string | undefined, work: () => Result): Result {
  try {
    return work()
  } catch (error) {
    throw peer === undefined ? error : new HandoverError('previous', peer, error)
  }
}

/** Ends a session with what a promise rejects with. */
function endWith (ended: AbortController, promise: Promise<unknown>): void {
  promise.catch((error: unknown) => { ended.abort(error) })
}

/** Throws HandoverError where work with a neighbour fails, unless the session ends anyway. */
async function lostWith<Result> (work: Promise<Result>, side: NeighbourSide, peer: string, signal: AbortSignal): Promise<Result> {
  try {
    return await work
  } catch (error) {
    if (error instanceof ChannelClosedError) await delay(GOODBYE_GRACE_MS, undefined, { signal }).catch(() => {})
    signal.throwIfAborted()
    throw new HandoverError(side, peer, error)
  }
}
