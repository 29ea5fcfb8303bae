import type { Encoding } from '../../encoding.ts'
import type { PromptContext } from '../../model/families/index.ts'
import type { Sequences } from '../../model/layers/hidden-states.ts'
import { fromClient, type ClientMessage, type GenerateClientChannel, type Hidden, type ServerMessage } from '../../protocols/generate/messages.ts'
import type { Received, Traffic } from '../../protocols/wire/channel.ts'
import { BadMessageError, ChannelTimeoutError } from '../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../protocols/wire/hidden-states.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import { checkArithmetic, type Arithmetic } from './arithmetic.ts'
import {
  checkPosition,
  tokensOf,
  type BatchItem,
  type CachedHiddenStates,
  type ForwardPass,
  type OutputGradient,
  type PassOptions,
  type Stage,
  type StageCache
} from './stage.ts'
import type { TrainingStream } from './training-stream.ts'

/** How hidden states are encoded, and how many values each has. */
export interface HiddenFormat {
  readonly wire: Encoding
  readonly hidden: number
}

/** How a stage reaches its server, for what it is used for. */
export interface StageSessions {
  /** The training stream that passes and evaluations take. It stays the caller's. */
  readonly training?: TrainingStream
  /** Opens a sealed session for one sequence. The stage closes it. */
  readonly openGeneration?: (signal?: AbortSignal) => Promise<GenerateClientChannel>
}

export interface RemoteStageSettings {
  readonly span: Span
  readonly format: HiddenFormat
  /** Rounds whose steps are in the client's own adapters: a server that is behind does not generate for it. 0 unless given. */
  readonly round?: number
  /** Whether sequences are some of many for which nobody waits: those of others come first. */
  readonly isBatch?: boolean
}

/**
 * Blocks on a server. Everything that comes back is checked: its shape and its values. Throws BadMessageError where an answer does not
 * fit, and the errors of a sealed session.
 */
export class RemoteStage implements Stage {
  readonly span: Span
  readonly #sessions: StageSessions
  readonly #format: HiddenFormat
  readonly #round: number
  readonly #isBatch: boolean
  #requests = 0

  constructor (sessions: StageSessions, { span, format, round = 0, isBatch = false }: RemoteStageSettings) {
    this.#round = round
    this.#isBatch = isBatch
    this.#sessions = sessions
    this.#format = format
    this.span = span
  }

  /** Computes a pass of this one client: of other clients a server hears on their own streams. Throws PassInterruptedError besides. */
  async forward (items: readonly BatchItem[], options: PassOptions, signal?: AbortSignal): Promise<ForwardPass> {
    const [item, ...others] = items
    if (item === undefined || others.length > 0) throw new RangeError(`a server takes one client's pass at a time, not ${items.length}`)
    const { round, pass } = options
    const format = this.#format
    const rows = tokensOf(item.tensors)
    const stream = this.#training
    const reply = async (kind: 'hidden' | 'gradient'): Promise<readonly Tensor[]> => {
      const tensors = await stream.reply(kind, options, signal)
      checkHiddenStates(tensors, { ...format, rows })
      return tensors
    }
    await stream.send({ case: 'forward', value: { round, pass, ...sequenceFields(item) } }, item.tensors, signal)
    return {
      hidden: new Map([[item.id, await reply('hidden')]]),
      async backward (gradients: ReadonlyMap<string, OutputGradient>) {
        const gradient = gradients.get(item.id)
        if (gradient === undefined) return new Map()
        const { tokens, tensors } = gradient
        await stream.send({ case: 'backward', value: { round, pass, tokens } }, tensors, signal)
        return new Map([[item.id, await reply('gradient')]])
      },
      free () {} // The server frees its activations when the round goes on.
    }
  }

  async evaluate ({ first, end, tensors, ...sequences }: BatchItem, signal?: AbortSignal): Promise<readonly Tensor[]> {
    const request = this.#requests++
    const stream = this.#training
    await stream.send({ case: 'evaluate', value: { request, middle: { first, end }, ...sequenceFields(sequences) } }, tensors, signal)
    const { message: { kind }, tensors: outputs } = await stream.receive(signal)
    if (kind.case !== 'evaluated' || kind.value.request !== request)
      throw new BadMessageError('the server answered something else than it was asked')
    checkHiddenStates(outputs, { ...this.#format, rows: tokensOf(tensors) })
    return outputs
  }

  async openCache ({ first, end }: Span, capacity: number, signal?: AbortSignal): Promise<RemoteCache> {
    const { openGeneration } = this.#sessions
    if (openGeneration === undefined) throw new RangeError('the stage was given no way to open a sequence')
    const channel = await openGeneration(signal)
    try {
      await channel.send(fromClient({ case: 'begin', value: { first, end, capacity, round: this.#round, batch: this.#isBatch } }), [], signal)
      const { message: { kind } } = await channel.receive(signal)
      if (kind.case !== 'ready') throw new BadMessageError('the server did not make room for the sequence')
      return new RemoteCache(channel, this.#format, { capacity, arithmetic: checkArithmetic(kind.value) })
    } catch (error) {
      channel.abort(error instanceof Error ? error : new Error(String(error)))
      throw error
    }
  }

  get #training (): TrainingStream {
    const { training } = this.#sessions
    if (training === undefined) throw new RangeError('the stage was given no training stream')
    return training
  }
}

/** A KV cache on a server: it lives as long as its session. */
export class RemoteCache implements StageCache {
  readonly capacity: number
  readonly arithmetic: Arithmetic
  readonly #channel: GenerateClientChannel
  readonly #format: HiddenFormat
  #length = 0
  #serverMs: readonly number[] | undefined
  #round: number | undefined

  constructor (
    channel: GenerateClientChannel,
    format: HiddenFormat,
    { capacity, arithmetic }: { readonly capacity: number, readonly arithmetic: Arithmetic }
  ) {
    this.#channel = channel
    this.#format = format
    this.capacity = capacity
    this.arithmetic = arithmetic
  }

  get length (): number { return this.#length }

  get traffic (): Traffic { return this.#channel.traffic }

  get serverMs (): readonly number[] | undefined { return this.#serverMs }

  get round (): number | undefined { return this.#round }

  async forward ({ tensors, context }: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]> {
    const [position, count] = [this.#length, tokensOf(tensors)]
    const { message: { kind }, tensors: outputs } = await this.#answer(
      fromClient({ case: 'rows', value: { position, count, ...contextFields(context) } }), tensors, signal
    )
    if (kind.case !== 'hidden' || kind.value.position !== position)
      throw new BadMessageError('the server answered something else than it was asked')
    checkHiddenStates(outputs, { ...this.#format, rows: count })
    this.#serverMs = serverMsOf(kind.value, 1)
    this.#length = position + count
    this.#round = kind.value.round
    return outputs
  }

  rewind (position: number): void {
    checkPosition(position, this.#length)
    this.#length = position
  }

  async close (): Promise<void> {
    await this.#channel.close()
  }

  /** Ends the session where the server is given up because it is late: it would go on computing, and hold its cache. */
  async #answer (message: ClientMessage, tensors: readonly Tensor[], signal: AbortSignal | undefined): Promise<Received<ServerMessage>> {
    try {
      await this.#channel.send(message, tensors, signal)
      return await this.#channel.receive(signal)
    } catch (error) {
      if (error instanceof ChannelTimeoutError) this.#channel.abort(error)
      throw error
    }
  }
}

/** How hidden states fall into sequences, as messages say it: no text, but its lengths. */
function sequenceFields (
  { lengths, contexts = [] }: Sequences
): { lengths: number[], contextLengths: number[], maskPositions: number[] } {
  return {
    lengths: [...lengths],
    contextLengths: contexts.map(({ length }) => length),
    maskPositions: contexts.map(({ maskPosition }) => maskPosition)
  }
}

/** Returns what each of so many servers says that it needed, in milliseconds; undefined where it is not one time for each. */
export function serverMsOf ({ stageUs }: Hidden, servers: number): readonly number[] | undefined {
  return stageUs.length === servers ? stageUs.map((us) => us / 1000) : undefined
}

/** The context of one sequence's hidden states, as messages say it. */
export function contextFields (context: PromptContext | undefined): { contextLength: number, maskPosition: number } {
  return { contextLength: context?.length ?? 0, maskPosition: context?.maskPosition ?? 0 }
}
