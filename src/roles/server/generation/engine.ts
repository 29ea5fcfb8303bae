import { MidspanError } from '../../../errors.ts'
import type { Model, PromptContext } from '../../../model/families/index.ts'
import { cacheBytes } from '../../../model/generation/cache-size.ts'
import type { CachedSpan } from '../../../model/generation/cached-span.ts'
import { SequenceCache } from '../../../model/generation/kv-cache.ts'
import { concatRows, sliceRows } from '../../../model/layers/hidden-states.ts'
import type { Boundary } from '../../../model/privacy/boundary.ts'
import { continued, type Device, type DeviceTensor } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import { segments } from '../../middle/segments.ts'
import { takeBatch, type Batchable } from './batcher.ts'

/** Thrown when a session asks for more cache than the server has left, or may give one session. */
export class CacheFullError extends MidspanError {
  constructor (wantedBytes: number, freeBytes: number) {
    super('E_CACHE_FULL', `the sequence needs ${wantedBytes} bytes of cache, and the server has ${freeBytes} left`, {
      next: 'ask for fewer tokens, or try again later'
    })
  }
}

/** Rows that share a run, at most: a long prompt delays the tokens of the others by one such run. */
const ROW_BUDGET = 512

/** One client's sequence on the server. */
export interface GenerationSession {
  readonly id: string
  readonly span: Span
  readonly cache: SequenceCache
  readonly bytes: number
}

/** A sequence's rows, as they came over the wire, from `position` on. */
export interface GenerationRows {
  readonly position: number
  readonly tensors: readonly Tensor[]
  /** In a model that reads prompts in both directions. */
  readonly context: PromptContext | undefined
}

interface Request extends Batchable, GenerationRows {
  readonly session: GenerationSession
  readonly resolve: (tensors: Tensor[]) => void
  readonly reject: (error: unknown) => void
}

export interface GenerationEngineComponents {
  readonly device: Device
  readonly model: Model
  readonly blocks: CachedSpan
  readonly boundary: Boundary
  /** Device memory for the caches of all sessions together. */
  readonly cacheBytes: number
}

/** Decodes for several clients at once: what is queued when a run begins shares it, and an idle server starts at once. */
export class GenerationEngine {
  readonly #c: GenerationEngineComponents
  readonly #queue: Request[] = []
  #heldBytes = 0
  #working: Promise<void> | undefined
  /** The run in progress: others' requests may keep the queue from ever being empty. */
  #running: Promise<unknown> | undefined
  #sessions = 0

  constructor (components: GenerationEngineComponents) {
    this.#c = components
  }

  get sessions (): number { return this.#sessions }
  get heldBytes (): number { return this.#heldBytes }

  /** Accounts for a sequence's cache, then takes it. Throws CacheFullError. */
  async open (id: string, span: Span, capacity: number): Promise<GenerationSession> {
    const { device, model, cacheBytes: total } = this.#c
    const bytes = cacheBytes(model, span, capacity)
    if (bytes > total - this.#heldBytes) throw new CacheFullError(bytes, total - this.#heldBytes)
    this.#heldBytes += bytes
    try {
      const cache = await SequenceCache.create(device, model, span, capacity)
      this.#sessions++
      return { id, span, cache, bytes }
    } catch (error) {
      this.#heldBytes -= bytes
      throw error
    }
  }

  /** Frees a sequence's cache, after the run that it is in, if any; a request still queued is refused. */
  async close (session: GenerationSession): Promise<void> {
    const gone = new MidspanError('E_SESSION_CLOSED', 'the session was closed')
    for (const request of this.#queue.filter((queued) => queued.session === session)) {
      this.#queue.splice(this.#queue.indexOf(request), 1)
      request.reject(gone)
    }
    await this.#running
    session.cache.free()
    this.#sessions--
    this.#heldBytes -= session.bytes
  }

  /** Takes a sequence's rows through its blocks. Resolves with them as they go back. */
  async compute (session: GenerationSession, rows: GenerationRows): Promise<Tensor[]> {
    return await new Promise((resolve, reject) => {
      this.#queue.push({ session, ...rows, rows: rows.tensors[0]?.shape[0] ?? 0, resolve, reject })
      this.#working ??= this.#work().finally(() => { this.#working = undefined })
    })
  }

  async #work (): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = takeBatch(this.#queue, ROW_BUDGET)
      const run = this.#run(batch).then(() => true, () => false)
      this.#running = run
      if (await run) continue
      // Nobody's request spoils another's: those that failed together are tried once more, alone.
      for (const request of batch) await (this.#running = this.#run([request]).catch(request.reject))
    }
  }

  async #run (batch: readonly Request[]): Promise<void> {
    const [only, ...others] = batch
    if (only !== undefined && others.length === 0) await this.#runAlone(only)
    else await this.#runTogether(batch)
  }

  /** Rows in, through the blocks and out in one message to the device: alone, the messages take as long as the work. */
  async #runAlone ({ session: { cache, span }, position, context, rows: count, tensors, resolve }: Request): Promise<void> {
    const { boundary, blocks } = this.#c
    cache.length = position
    const { calls, input } = continued(await boundary.decoding(tensors))
    const through = await blocks.forwardCalls(input, [{ cache, count, context }], span)
    const encoded = await boundary.encode({ calls: [...calls, ...through], output: 'output' }, count)
    cache.length = position + count
    resolve(encoded)
  }

  async #runTogether (batch: readonly Request[]): Promise<void> {
    const { boundary, device, blocks } = this.#c
    const aboard = new Map<Request, DeviceTensor>()
    try {
      for (const request of batch) {
        request.session.cache.length = request.position
        aboard.set(request, await boundary.decode(request.tensors))
      }
      const byId = new Map(batch.map((request) => [request.session.id, request]))
      const plan = segments(batch.map(({ session: { id, span }, rows }) => ({ id, rows, ...span })))
      for (const { first, end, items } of plan) {
        const requests = items.map((id) => byId.get(id) as Request)
        await this.#ride(
          requests,
          aboard,
          async (rows) =>
            await blocks.forward(rows, requests.map(({ session: { cache }, rows: count, context }) => ({ cache, count, context })), {
              first,
              end
            })
        )
      }
      for (const request of batch) {
        const encoded = await boundary.encode(aboard.get(request) as DeviceTensor)
        request.session.cache.length = request.position + request.rows
        request.resolve(encoded)
      }
    } finally {
      device.free(...aboard.values())
    }
  }

  /** Replaces the rows of these requests by what a run makes of them together. */
  async #ride (
    requests: readonly Request[],
    aboard: Map<Request, DeviceTensor>,
    run: (rows: DeviceTensor) => Promise<DeviceTensor>
  ): Promise<void> {
    const { device } = this.#c
    const parts = requests.map((request) => aboard.get(request) as DeviceTensor)
    const joined = parts.length === 1 ? parts[0] as DeviceTensor : await concatRows(device, parts)
    const result = await run(joined).finally(() => { if (joined !== parts[0]) device.free(joined) })
    let start = 0
    for (const request of requests) {
      const own = requests.length === 1 ? result : await sliceRows(device, result, start, start + request.rows)
      device.free(aboard.get(request) as DeviceTensor)
      aboard.set(request, own)
      start += request.rows
    }
    if (requests.length > 1) device.free(result)
  }
}
