import { randomUUID } from 'node:crypto'
import type { Waiting } from '../../../api/fields.ts'
import { Backoff } from '../../../backoff.ts'
import { isRetryable } from '../../../errors.ts'
import type { Batch } from '../../../model/text/batches.ts'
import { ChannelTimeoutError } from '../../../protocols/wire/errors.ts'
import type { Tensor } from '../../../tensor.ts'
import { protectionOf, type ClientProtection } from '../../charter-settings.ts'
import type { TrainingStream } from '../../middle/training-stream.ts'
import type { Client } from '../client.ts'
import { routeOf } from '../server-route.ts'
import { TrafficMeter, type Traffic } from '../traffic.ts'
import { releaseBatch, type ReleasedBatch } from '../training/evaluation.ts'

/** A server that restarts is back within seconds. */
const RECONNECT = { firstMs: 200, greatestMs: 5_000 }

/** A batch that came back from the middle. */
export interface ComputedBatch {
  readonly released: ReleasedBatch
  /** Its hidden states after the middle, in the encoding of the wire. */
  readonly outputs: readonly Tensor[]
}

/**
 * Takes batches through the middle, one after another, without learning from them. A connection that is lost is opened again, and the batch
 * is sent as it was released.
 */
export class MiddleBatches {
  readonly #client: Client
  readonly #protection: ClientProtection
  readonly #timeoutMs: number
  readonly #meter = new TrafficMeter()
  readonly #backoff = new Backoff(RECONNECT)
  /** Names this evaluation in the ledger. */
  readonly #evaluation = randomUUID()
  /** Batches that were released. */
  #count = 0
  #stream: TrainingStream | undefined

  constructor (client: Client, timeoutMs: number) {
    this.#client = client
    this.#timeoutMs = timeoutMs
    this.#protection = protectionOf(client.context.charter, client.context.client)
  }

  /** Bytes on the wire so far. */
  get traffic (): Traffic { return this.#meter.total }

  /**
   * Takes one batch through the middle, and says meanwhile what it waits for. Replacing one record changes `recordRows` of its rows, at
   * most. Throws what no other try can mend, and what failed last when the batch is not answered for the time that was given.
   */
  async * compute (batch: Batch, recordRows: number, signal: AbortSignal): AsyncGenerator<Waiting, ComputedBatch> {
    const { context: { charter, client: { partition } }, runtime, ledger } = this.#client
    const limit = AbortSignal.timeout(this.#timeoutMs)
    const until = AbortSignal.any([signal, limit])
    let released: ReleasedBatch | undefined
    let last: Error | undefined
    for (;;) {
      try {
        const training = await this.#connected(until)
        // Where all of the batch is withheld, nothing goes through the middle.
        if (batch.ids.length === 0) return { released: { batch, lengths: [], tensors: [] }, outputs: [] }
        const route = routeOf({ training }, { charter, partition })
        released ??= await releaseBatch({ ...runtime, ledger }, batch, this.#protection, {
          evaluation: this.#evaluation, index: this.#count++, recordRows
        })
        const { batch: _, kept: __, ...item } = released
        const outputs = await route.evaluate({ id: 'self', ...route.span, ...item }, until)
        this.#backoff.reset()
        return { released, outputs }
      } catch (error) {
        this.#stream?.abort(asError(error))
        this.#stream = undefined
        signal.throwIfAborted()
        if (limit.aborted) throw last ?? new ChannelTimeoutError('the server did not answer', this.#timeoutMs)
        if (!isRetryable(error)) throw error
        last = asError(error)
        yield { type: 'waiting', reason: `the connection was lost (${last.message}); trying again` }
        await this.#backoff.wait(until).catch(() => {}) // the next try says why there is none
      }
    }
  }

  async close (): Promise<void> {
    await this.#stream?.close()
  }

  async #connected (until: AbortSignal): Promise<TrainingStream> {
    const { sessions, adapters } = this.#client
    if (this.#stream !== undefined) return this.#stream
    this.#stream = this.#meter.watch(await sessions.training(until))
    await adapters.refresh(this.#stream, until)
    return this.#stream
  }
}

function asError (error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
