import { MidspanError } from '../../../errors.ts'
import type { Model } from '../../../model/families/index.ts'
import { maxChunkTokens } from '../../../model/generation/cache-size.ts'
import type { CachedSpan } from '../../../model/generation/cached-span.ts'
import type { Boundary } from '../../../model/privacy/boundary.ts'
import type { Device } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'
import { tensor, type Tensor } from '../../../tensor.ts'
import { checkPosition, tokensOf, type CachedHiddenStates, type StageCache } from '../../middle/stage.ts'
import { BatchRunner, type BatchChunk, type ChunkResult } from './batch-runner.ts'
import { CacheManager, type CachedSequence } from './cache-manager.ts'
import { NO_HISTORY, schedule, type PendingRequest, type SchedulerLimits } from './scheduler.ts'

/** Thrown for a request of a sequence that was closed before it was computed. */
export class SequenceClosedError extends MidspanError {
  constructor () {
    super('E_SESSION_CLOSED', 'the session was closed')
  }
}

/**
 * What one run carries. A run with 512 tokens of a prompt takes about twenty times as long as one with a single token, which must wait for
 * it; with 128 tokens about six times, at nearly the same speed of the prompt. 32 sequences bound the programs that a server compiles.
 */
export const DEFAULT_LIMITS: SchedulerLimits = {
  maxBatchedTokens: 512,
  maxPrefillTokens: 128,
  maxDecodeTokens: 8,
  maxSequences: 32,
  quantum: 32
}

/** A request that is queued or running. */
interface Request extends CachedHiddenStates {
  readonly sequence: CachedSequence
  /** The position of the first token. */
  readonly position: number
  readonly count: number
  /** The tokens that were computed so far, and their hidden states. */
  done: number
  readonly results: Array<readonly Tensor[]>
  readonly resolve: (tensors: readonly Tensor[]) => void
  readonly reject: (error: unknown) => void
}

export interface GenerationEngineComponents {
  readonly device: Device
  readonly model: Model
  readonly blocks: CachedSpan
  readonly boundary: Boundary
  /** Device memory for the caches of all sequences together. */
  readonly cacheBytes: number
}

/** Generates for several clients at once: it queues requests, and runs one plan of the scheduler after another while there are any. */
export class GenerationEngine {
  readonly caches: CacheManager
  readonly #runner: BatchRunner
  readonly #limits: SchedulerLimits
  readonly #requests: Request[] = []
  #history = NO_HISTORY
  #working: Promise<void> | undefined
  /** The run in progress. */
  #running: Promise<unknown> | undefined

  constructor ({ device, model, blocks, boundary, cacheBytes }: GenerationEngineComponents, limits = DEFAULT_LIMITS) {
    this.caches = new CacheManager({ device, model, totalBytes: cacheBytes })
    this.#runner = new BatchRunner({ device, blocks, boundary })
    this.#limits = { ...limits, maxBatchedTokens: Math.min(limits.maxBatchedTokens, maxChunkTokens(model)) }
  }

  /** Opens a sequence, named `id`, of up to `capacity` tokens of a client. The caller closes it. Throws CacheFullError. */
  async open (id: string, client: string, span: Span, capacity: number, signal?: AbortSignal): Promise<EngineSequence> {
    return new EngineSequence(this, await this.caches.open(id, client, span, capacity, signal))
  }

  /**
   * Takes hidden states through the blocks of their sequence, in as many runs as the scheduler plans, and appends them to its cache. A
   * sequence
   * has one request at a time. A request whose signal aborts is given up before its next run. Throws CacheEvictedError.
   */
  async compute (sequence: CachedSequence, states: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]> {
    signal?.throwIfAborted()
    this.caches.acquire(sequence)
    const { promise, resolve, reject } = Promise.withResolvers<readonly Tensor[]>()
    const request: Request = {
      sequence, ...states, position: sequence.cache.length, count: tokensOf(states.tensors), done: 0, results: [], resolve, reject
    }
    const onAbort = (): void => { this.#end(request, () => { reject(signal?.reason) }) }
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#requests.push(request)
    this.#working ??= this.#work().finally(() => { this.#working = undefined })
    return await promise.finally(() => { signal?.removeEventListener('abort', onAbort) })
  }

  /** Frees the cache of a sequence, after the run that uses it, if any. Rejects its request with SequenceClosedError. */
  async close (sequence: CachedSequence): Promise<void> {
    const request = this.#requests.find((queued) => queued.sequence === sequence)
    if (request !== undefined) this.#end(request, () => { request.reject(new SequenceClosedError()) })
    await this.#running
    this.caches.close(sequence)
  }

  async #work (): Promise<void> {
    while (this.#requests.length > 0) {
      const plan = schedule({ requests: this.#requests.map(pending), history: this.#history }, this.#limits)
      this.#history = plan.history
      const byId = new Map(this.#requests.map((request) => [request.sequence.id, request]))
      const planned = plan.chunks.map(({ id, tokens }) => ({ request: byId.get(id)!, tokens }))
      const run = this.#runner.run(planned.map(({ request, tokens }) => chunkOf(request, tokens)))
      this.#running = run
      const results = await run
      for (const [i, { request, tokens }] of planned.entries()) this.#take(request, tokens, results[i]!)
    }
  }

  /** Adds the result of a chunk to its request, and answers the request where it was the last. */
  #take (request: Request, tokens: number, result: ChunkResult): void {
    if (!this.#requests.includes(request)) return
    if ('error' in result) {
      this.#end(request, () => { request.reject(result.error) })
      return
    }
    request.done += tokens
    request.results.push(result.tensors)
    if (request.done === request.count) this.#end(request, () => { request.resolve(joined(request.results)) })
  }

  /** Takes a request out of the queue, if it is there, and settles it. */
  #end (request: Request, settle: () => void): void {
    const index = this.#requests.indexOf(request)
    if (index < 0) return
    this.#requests.splice(index, 1)
    this.caches.release(request.sequence)
    settle()
  }
}

/** One open sequence of a client, as the session that serves it sees it. */
export class EngineSequence implements StageCache {
  readonly #engine: GenerationEngine
  readonly #sequence: CachedSequence

  constructor (engine: GenerationEngine, sequence: CachedSequence) {
    this.#engine = engine
    this.#sequence = sequence
  }

  get capacity (): number { return this.#sequence.cache.capacity }

  get length (): number { return this.#sequence.cache.length }

  /** Whether tokens from this position on can be computed: the keys and values that they attend to are in the cache. */
  holds (position: number): boolean {
    return this.#sequence.cache.holds(position)
  }

  async forward (states: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]> {
    return await this.#engine.compute(this.#sequence, states, signal)
  }

  rewind (position: number): void {
    checkPosition(position, this.length)
    this.#sequence.cache.length = position
  }

  async close (): Promise<void> {
    await this.#engine.close(this.#sequence)
  }
}

/**
 * A request as the scheduler sees it. A prompt that a model reads in both directions is computed whole: its tokens attend to each other.
 */
function pending ({ sequence: { id, client }, context, position, count, done }: Request): PendingRequest {
  return { id, client, tokens: count - done, indivisible: context !== undefined && position === 0 ? count : 1 }
}

/** The next tokens of a request. */
function chunkOf ({ sequence, position, tensors, context, count, done }: Request, tokens: number): BatchChunk {
  return {
    sequence,
    position: position + done,
    count: tokens,
    tensors: tensors.map((part) => rowsOf(part, done, done + tokens)),
    context,
    requestEnd: position + count
  }
}

/** Rows `[first, end)` of a tensor [rows, …], over the same memory. */
function rowsOf (value: Tensor, first: number, end: number): Tensor {
  const [rows = 0, ...rest] = value.shape
  if (first === 0 && end === rows) return value
  const width = value.data.length / rows
  return tensor(value.dtype, [end - first, ...rest], value.data.subarray(first * width, end * width))
}

/** The hidden states of all chunks of a request, and for int8 their scales, one chunk after the other. */
function joined (results: ReadonlyArray<readonly Tensor[]>): readonly Tensor[] {
  const [first, ...others] = results
  if (first === undefined || others.length === 0) return first ?? []
  return first.map((part, index) => concatenated(results.map((tensors) => tensors[index] ?? part)))
}

function concatenated (parts: readonly Tensor[]): Tensor {
  const [{ dtype, shape: [, ...rest], data }] = parts as [Tensor, ...Tensor[]]
  const length = parts.reduce((total, part) => total + part.data.length, 0)
  const values = new (data.constructor as new (length: number) => Float32Array)(length)
  let offset = 0
  for (const part of parts) {
    values.set(part.data as Float32Array, offset)
    offset += part.data.length
  }
  return tensor(dtype, [parts.reduce((total, part) => total + (part.shape[0] ?? 0), 0), ...rest], values)
}
