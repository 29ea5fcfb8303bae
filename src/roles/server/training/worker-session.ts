import { MidspanError } from '../../../errors.ts'
import { MAX_ADAPTER_PART_BYTES } from '../../../protocols/stage/constants.ts'
import { fromCoordinator, type Question, type StageCoordinatorChannel, type WorkerMessage } from '../../../protocols/stage/messages.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { withSignal } from '../../../protocols/wire/wait.ts'
import type { Tensor } from '../../../tensor.ts'
import type { StateCopy } from '../../training/coordinator-state.ts'
import type { NamedTensors } from '../../training/participant.ts'
import { partsWithin } from './stage-items.ts'

/** Thrown where a worker does not answer in time. */
export class WorkerSilentError extends MidspanError {
  constructor (timeoutMs: number) {
    super('E_WORKER_SILENT', `a worker did not answer for ${Math.round(timeoutMs / 1000)} s`, {
      next: 'look at the worker\'s log', retryable: true
    })
  }
}

/** The adapters as training has them now. */
export interface AdapterSource {
  /** Rounds whose step is in the adapters. */
  readonly round: number
  /** The adapters of a span, after that many rounds. */
  of (span: { readonly first: number, readonly end: number }): Promise<NamedTensors & { readonly round: number }>
}

/** What a worker answers, by kind. */
export type AnswerKind = NonNullable<WorkerMessage['kind']['case']>

/** A question, and the kind of its answer. */
export interface Inquiry {
  /** From `number`; one of its own where this is left out. */
  readonly request?: number
  readonly question: Question
  readonly tensors?: readonly Tensor[]
  readonly kind: AnswerKind
}

interface Pending {
  readonly kind: AnswerKind
  readonly resolve: (answer: NamedTensors) => void
  readonly reject: (error: unknown) => void
  readonly names: string[]
  readonly tensors: Tensor[]
  timer: NodeJS.Timeout
}

export interface WorkerSessionSettings {
  /** How long a worker may take for an answer. */
  readonly timeoutMs: number
  /** Tensors of one answer, all of its parts together. */
  readonly maxTensors: number
}

/** A stage stream, on the coordinator's side: questions, each with its answer. Whatever goes wrong ends the stream, and fails them all. */
export class WorkerSession {
  /** The rounds whose step is in the adapters that the worker was given on this stream; undefined before it was given any. */
  #round: number | undefined
  #loading: Promise<void> | undefined
  /** The round of the newest copy of the state that the worker keeps. */
  #keptRound: number | undefined
  #copying: Promise<void> | undefined
  #requests = 0
  #failure: Error | undefined
  readonly #channel: StageCoordinatorChannel
  readonly #settings: WorkerSessionSettings
  readonly #pending = new Map<number, Pending>()

  constructor (channel: StageCoordinatorChannel, settings: WorkerSessionSettings) {
    this.#channel = channel
    this.#settings = settings
    void this.#read()
  }

  /** Whether the stream is of no more use. */
  get isOver (): boolean { return this.#failure !== undefined }

  get round (): number {
    if (this.#round === undefined) throw new RangeError('the worker has no adapters yet')
    return this.#round
  }

  /** Brings the worker's adapters to the round of training, unless they are there. */
  async bring (source: AdapterSource, span: { readonly first: number, readonly end: number }, signal: AbortSignal): Promise<void> {
    while (this.#round !== source.round)
      await (this.#loading ??= this.#load(source, span, signal).finally(() => { this.#loading = undefined }))
  }

  /** Has the worker keep a copy of the state of training as it is now, after the one that is being sent. */
  async keep (copy: () => StateCopy | undefined, signal: AbortSignal): Promise<void> {
    await (this.#copying ??= this.#copyNewest(copy, signal).finally(() => { this.#copying = undefined }))
  }

  /** Returns the number of a question that is about to be asked. */
  number (): number { return this.#requests++ }

  /** Asks, and resolves with the tensors of the answer, with names where the answer has some. */
  async ask ({ request = this.number(), question, tensors = [], kind }: Inquiry, signal: AbortSignal): Promise<NamedTensors> {
    const answer = this.#expect(request, kind, signal)
    await this.#send(request, question, tensors)
    return await answer
  }

  /** Says what has no answer. */
  tell (question: Question): void {
    if (!this.isOver) this.#send(this.number(), question, []).catch(() => {}) // the stream has ended, and everything with it
  }

  /** Ends the stream. */
  abort (error: Error): void {
    this.#fail(error)
    this.#channel.abort(error)
  }

  async #load (source: AdapterSource, span: { readonly first: number, readonly end: number }, signal: AbortSignal): Promise<void> {
    const { round, names, tensors } = await source.of(span)
    const parts = partsWithin(names.map((name, index) => ({ name, value: tensors[index] as Tensor })), MAX_ADAPTER_PART_BYTES)
    const request = this.number()
    const answer = this.#expect(request, 'loaded', signal)
    for (const [index, part] of parts.entries()) {
      const more = index < parts.length - 1
      await this.#send(
        request,
        { case: 'loadAdapters', value: { round, names: part.map(({ name }) => name), more } },
        part.map(({ value }) => value)
      )
    }
    await answer
    this.#round = round
  }

  async #copyNewest (copy: () => StateCopy | undefined, signal: AbortSignal): Promise<void> {
    for (let next = copy(); next !== undefined && next.round !== this.#keptRound; next = copy()) {
      await this.#sendCopy(next, signal)
      this.#keptRound = next.round
    }
  }

  async #sendCopy ({ round, meta, tensors }: StateCopy, signal: AbortSignal): Promise<void> {
    const parts = partsWithin([...tensors].map(([name, value]) => ({ name, value })), MAX_ADAPTER_PART_BYTES)
    const request = this.number()
    const answer = this.#expect(request, 'stateKept', signal)
    for (const [index, part] of parts.entries()) {
      await this.#send(
        request,
        {
          case: 'keepState',
          value: { round, meta: index === 0 ? meta : '', names: part.map(({ name }) => name), more: index < parts.length - 1 }
        },
        part.map(({ value }) => value)
      )
    }
    await answer
  }

  async #send (request: number, question: Question, tensors: readonly Tensor[]): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure
    try {
      await this.#channel.send(fromCoordinator(request, question), tensors)
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)))
      throw error
    }
  }

  /** Waits for an answer. Whoever awaits it later hears of a failure then. */
  #expect (request: number, kind: AnswerKind, signal: AbortSignal): Promise<NamedTensors> {
    const { promise, resolve, reject } = Promise.withResolvers<NamedTensors>()
    if (this.#failure !== undefined) reject(this.#failure)
    else this.#pending.set(request, { kind, resolve, reject, names: [], tensors: [], timer: this.#startTimer() })
    const answer = withSignal(promise, signal)
    answer.catch(() => {})
    return answer
  }

  async #read (): Promise<void> {
    try {
      for (;;) this.#take(await this.#channel.receive())
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)))
    }
  }

  #take ({ message: { request, kind }, tensors }: Received<WorkerMessage>): void {
    const pending = this.#pending.get(request)
    if (pending === undefined || kind.case !== pending.kind) throw new BadMessageError('the worker answered something else than it was asked')
    // A worker answers in order: whoever waits for a later answer has not been waiting for it until now.
    for (const other of this.#pending.values()) {
      clearTimeout(other.timer)
      other.timer = this.#startTimer()
    }
    pending.tensors.push(...tensors)
    if (pending.tensors.length > this.#settings.maxTensors) throw new BadMessageError('the worker answered with more tensors than there are')
    if (kind.case === 'adapterGradients') {
      pending.names.push(...kind.value.names)
      if (kind.value.more) return
    }
    clearTimeout(pending.timer)
    this.#pending.delete(request)
    pending.resolve({ names: pending.names, tensors: pending.tensors })
  }

  #startTimer (): NodeJS.Timeout {
    const { timeoutMs } = this.#settings
    return setTimeout(() => { this.abort(new WorkerSilentError(timeoutMs)) }, timeoutMs).unref()
  }

  #fail (error: Error): void {
    this.#failure ??= error
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer)
      reject(this.#failure)
    }
    this.#pending.clear()
  }
}
