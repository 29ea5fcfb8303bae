import { setImmediate } from 'node:timers/promises'
import { MidspanError } from '../../../errors.ts'
import type { Model } from '../../../model/families/index.ts'
import { maxChunkTokens } from '../../../model/generation/cache-size.ts'
import type { CachedSpan } from '../../../model/generation/cached-span.ts'
import type { Boundary } from '../../../model/privacy/boundary.ts'
import type { Device } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'
import { joinTensorRows, tensorRows, type Tensor } from '../../../tensor.ts'
import type { ServerLoad } from '../../context.ts'
import { checkPosition, tokensOf, type CachedHiddenStates, type StageCache } from '../../middle/stage.ts'
import { DeviceTurns } from '../device-turns.ts'
import { BatchRunner, type BatchChunk, type ChunkResult } from './batch-runner.ts'
import { CacheManager, type CachedSequence } from './cache-manager.ts'
import { Gathering } from './gathering.ts'
import { NO_HISTORY, schedule, type PendingRequest, type Priority, type SchedulerLimits } from './scheduler.ts'
import { ServingMetrics } from './serving-metrics.ts'
import { SpeedMeter } from './speed-meter.ts'

/** Thrown for a request of a sequence that was closed before it was computed. */
export class SequenceClosedError extends MidspanError {
  constructor () {
    super('E_SESSION_CLOSED', 'the session was closed')
  }
}

/**
 * Bounds a run. Single tokens wait for the prompts that share their run: on two CPU threads at hidden size 512, a run of 512 tokens took 25
 * times as long as a run of one, and a run of 128 tokens 7 times, at nearly the same speed of the prompt. 32 sequences bound the programs.
 */
export const DEFAULT_LIMITS: SchedulerLimits = {
  maxBatchedTokens: 512,
  maxPrefillTokens: 128,
  maxDecodeTokens: 8,
  maxSequences: 32,
  quantum: 32,
  maxWaitRuns: 16,
  overheadTokens: 0 // while nothing was measured: then only as many tokens count as there are
}

/** After so long without a request, texts are not what the server is at. */
const ACTIVE_MS = 5_000

/** How a client's tokens count beside those of others. */
export interface Service {
  readonly weight: number
  readonly priority: Priority
}

const ORDINARY: Service = { weight: 1, priority: 'interactive' }

/** A sequence whose requests the engine queues. */
export interface ScheduledSequence extends CachedSequence, Service {
  /** When its last answer was there. */
  answeredAtMs: number | undefined
  /** Milliseconds from its last answer to the request after it. */
  returnMs: number | undefined
}

/** A request that is queued or running. */
interface Request extends CachedHiddenStates {
  readonly sequence: ScheduledSequence
  /** The position of the first token. */
  readonly position: number
  readonly count: number
  readonly askedAtMs: number
  hasBegun: boolean
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
  /** The blocks that the server has; the whole model unless given. Speeds are told for all of them. */
  readonly span?: Span
  /** By which it shares the device with training; it has the device alone unless given. */
  readonly turns?: DeviceTurns
}

/** Generates for several clients at once: it queues requests, and runs one plan of the scheduler after another while there are any. */
export class GenerationEngine {
  readonly caches: CacheManager
  readonly metrics = new ServingMetrics()
  readonly #runner: BatchRunner
  readonly #turns: DeviceTurns
  readonly #limits: SchedulerLimits
  readonly #totalBytes: number
  readonly #speed: SpeedMeter
  readonly #requests: Request[] = []
  readonly #gathering = new Gathering()
  #history = NO_HISTORY
  #isWorking = false
  /** The run in progress, and the requests that have chunks in it. */
  #running: Promise<unknown> | undefined
  #inRun: ReadonlySet<Request> = new Set()
  #activeAtMs = -Infinity

  constructor (components: GenerationEngineComponents, limits = DEFAULT_LIMITS) {
    const { device, model, blocks, boundary, cacheBytes, span, turns = new DeviceTurns() } = components
    this.#turns = turns
    this.#totalBytes = cacheBytes
    this.#speed = new SpeedMeter(span === undefined ? model.layers : span.end - span.first)
    this.caches = new CacheManager({ device, model, totalBytes: cacheBytes })
    this.#runner = new BatchRunner({ device, blocks, boundary, maxChunkTokens: maxChunkTokens(model) })
    this.#limits = { ...limits, maxBatchedTokens: Math.min(limits.maxBatchedTokens, maxChunkTokens(model)) }
  }

  /** How much there is to do, and how fast it goes. */
  get load (): Omit<ServerLoad, 'sessions'> {
    const { prefillTokensPerSecond, decodeTokensPerSecond } = this.#speed
    return {
      queuedTokens: this.#requests.reduce((sum, { count, done }) => sum + count - done, 0),
      freeCacheBytes: Math.max(0, this.#totalBytes - this.caches.heldBytes),
      prefillTokensPerSecond,
      decodeTokensPerSecond
    }
  }

  /** Whether it computes for texts, or did so a short while ago. */
  get isActive (): boolean {
    return this.#requests.length > 0 || performance.now() - this.#activeAtMs < ACTIVE_MS
  }

  /** Opens a sequence, named `id`, of up to `capacity` tokens of a client. The caller closes it. Throws CacheFullError. */
  async open (
    id: string,
    client: string,
    span: Span,
    capacity: number,
    { signal, ...service }: Partial<Service> & { readonly signal?: AbortSignal } = {}
  ): Promise<EngineSequence> {
    const cached = await this.caches.open(id, client, span, capacity, signal)
    return new EngineSequence(this, { ...ORDINARY, ...service, ...cached, answeredAtMs: undefined, returnMs: undefined })
  }

  /**
   * Takes hidden states through the blocks of their sequence, in as many runs as the scheduler plans, and appends them to its cache. A
   * sequence has one request at a time. A request whose signal aborts is given up before its next run. Throws CacheEvictedError.
   */
  async compute (sequence: ScheduledSequence, states: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]> {
    signal?.throwIfAborted()
    this.caches.acquire(sequence)
    const askedAtMs = performance.now()
    if (sequence.answeredAtMs !== undefined) sequence.returnMs = askedAtMs - sequence.answeredAtMs
    const { promise, resolve, reject } = Promise.withResolvers<readonly Tensor[]>()
    const request: Request = {
      sequence,
      ...states,
      position: sequence.cache.length,
      count: tokensOf(states.tensors),
      askedAtMs,
      hasBegun: false,
      done: 0,
      results: [],
      resolve,
      reject
    }
    const onAbort = (): void => { this.#end(request, () => { reject(signal?.reason) }) }
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#requests.push(request)
    this.#gathering.settled(sequence.id)
    if (!this.#isWorking) void this.#work()
    return await promise.finally(() => { signal?.removeEventListener('abort', onAbort) })
  }

  /** Frees the cache of a sequence, after the run that uses it, if any. Rejects its request with SequenceClosedError. */
  async close (sequence: CachedSequence): Promise<void> {
    const request = this.#requests.find((queued) => queued.sequence === sequence)
    if (request !== undefined) this.#end(request, () => { request.reject(new SequenceClosedError()) })
    this.#gathering.settled(sequence.id)
    await this.#running
    this.caches.close(sequence)
  }

  async #work (): Promise<void> {
    this.#isWorking = true
    try {
      while (this.#requests.length > 0) {
        await this.#gathering.wait()
        await this.#turns.generation(async () => { await this.#run() }, () => this.#requests.length > 0)
        // What came meanwhile, and what follows the answers at once, is in the next run.
        if (this.#requests.length > 0) await setImmediate()
      }
    } finally {
      // At once: a request that comes after the last look at the queue would wait for the one after it.
      this.#isWorking = false
      this.#turns.rest()
      this.#activeAtMs = performance.now()
    }
  }

  /** Plans a run of what has gathered by now, and computes it. */
  async #run (): Promise<void> {
    if (this.#requests.length === 0) return // all were given up while training had the device
    const limits = { ...this.#limits, overheadTokens: Math.max(this.#limits.overheadTokens, this.#speed.overheadTokens) }
    const plan = schedule({ requests: this.#requests.map(pending), history: this.#history }, limits)
    this.#history = plan.history
    const byId = new Map(this.#requests.map((request) => [request.sequence.id, request]))
    const planned = plan.chunks.map(({ id, tokens }) => ({ request: byId.get(id)!, tokens }))
    this.#inRun = new Set(planned.map(({ request }) => request))
    const startedAtMs = performance.now()
    for (const { request } of planned) this.#begin(request, startedAtMs)
    const run = this.#runner.run(planned.map(({ request, tokens }) => chunkOf(request, tokens)))
    this.#running = run
    const results = await run
    this.#inRun = new Set()
    if (results.every((result) => 'tensors' in result)) this.#measure(planned, performance.now() - startedAtMs)
    for (const [i, { request, tokens }] of planned.entries()) this.#take(request, tokens, results[i]!)
    const answered = planned.filter(({ request }) => request.done === request.count).map(({ request: { sequence } }) => sequence)
    this.#gathering.ran(performance.now() - startedAtMs, answered)
  }

  #begin (request: Request, nowMs: number): void {
    if (!request.hasBegun) this.metrics.queued(nowMs - request.askedAtMs)
    request.hasBegun = true
  }

  #measure (planned: ReadonlyArray<{ readonly request: Request, readonly tokens: number }>, ms: number): void {
    const tokens = planned.reduce((sum, chunk) => sum + chunk.tokens, 0)
    const tokenBlocks = planned.reduce((sum, { request: { sequence: { span } }, tokens: own }) => sum + own * (span.end - span.first), 0)
    this.#speed.add({ tokens, blocks: tokenBlocks / tokens, ms })
    this.metrics.ran(tokens, planned.length, ms)
    for (const { request: { sequence: { client, weight } }, tokens: own } of planned) this.metrics.served(client, weight, own)
  }

  /** Adds the result of a chunk to its request, and answers the request where it was the last. */
  #take (request: Request, tokens: number, result: ChunkResult): void {
    if (!this.#requests.includes(request)) {
      this.caches.release(request.sequence)
      return
    }
    if ('error' in result) {
      this.#end(request, () => { request.reject(result.error) })
      return
    }
    request.done += tokens
    request.results.push(result.tensors)
    if (request.done < request.count) return
    this.#answered(request)
    this.#end(request, () => { request.resolve(joinRows(request.results)) })
  }

  #answered ({ sequence, count, askedAtMs }: Request): void {
    const nowMs = performance.now()
    if (count > this.#limits.maxDecodeTokens) this.metrics.answeredPrompt(nowMs - askedAtMs)
    else if (sequence.answeredAtMs !== undefined) this.metrics.answeredStep(nowMs - sequence.answeredAtMs)
    sequence.answeredAtMs = nowMs
  }

  /** Takes a request out of the queue, if it is there, and settles it. Its cache stays in use until the run that it is in has ended. */
  #end (request: Request, settle: () => void): void {
    const index = this.#requests.indexOf(request)
    if (index < 0) return
    this.#requests.splice(index, 1)
    if (!this.#inRun.has(request)) this.caches.release(request.sequence)
    settle()
  }
}

/** A sequence on the server, as the session of its client uses it. */
export class EngineSequence implements StageCache {
  readonly #engine: GenerationEngine
  readonly #sequence: ScheduledSequence

  constructor (engine: GenerationEngine, sequence: ScheduledSequence) {
    this.#engine = engine
    this.#sequence = sequence
  }

  get capacity (): number { return this.#sequence.cache.capacity }
  get length (): number { return this.#sequence.cache.length }

  /** Returns whether the cache still has every key that tokens from `position` on attend to. */
  holds (position: number): boolean {
    return this.#sequence.cache.holds(position)
  }

  /** Computes hidden states through the span and appends them to the cache. Throws CacheEvictedError. */
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

/** Describes a request to the scheduler. A context that is read in both directions comes with the token after it in one chunk. */
function pending ({ sequence: { id, client, weight, priority }, position, context, count, done }: Request): PendingRequest {
  const indivisible = context === undefined || position + done > 0 ? 1 : context.length + 1
  return { id, client, weight, priority, tokens: count - done, indivisible }
}

/** Returns the next `count` tokens of a request. */
function chunkOf ({ sequence, position, context, tensors, count: requestCount, done }: Request, count: number): BatchChunk {
  return {
    sequence,
    position: position + done,
    count,
    tensors: tensors.map((part) => tensorRows(part, done, done + count)),
    context,
    requestEnd: position + requestCount
  }
}

/** Joins the tensors of consecutive chunks [rows, ...], each with those at its place in the others. */
function joinRows (chunks: ReadonlyArray<readonly Tensor[]>): readonly Tensor[] {
  const [first, ...others] = chunks
  if (first === undefined || others.length === 0) return first ?? []
  return first.map((_, place) => joinTensorRows(chunks.map((chunk) => chunk[place]!)))
}
