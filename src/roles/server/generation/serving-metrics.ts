import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import type { Distribution, ServingStatus } from '../../../api/status.ts'

/** Clients whose tokens are counted apart; of more, the one that was served last the longest ago is forgotten. */
export const MAX_COUNTED_CLIENTS = 256

/** Times are kept in microseconds, up to an hour, within 1%: a histogram then has a few thousand counters, however much it counts. */
const TIMES = { lowest: 1, highest: 3_600_000_000, figures: 2 }

/** Tokens and sequences of a run, within 1%. */
const COUNTS = { lowest: 1, highest: 1_000_000, figures: 2 }

/** A gap between two answers of a sequence that is longer is a pause of its client, such as one between the turns of a chat. */
const MAX_GAP_MS = 10_000

/** Counts what a server does for texts, in memory that does not grow. */
export class ServingMetrics {
  readonly #runTokens = createHistogram(COUNTS)
  readonly #runSequences = createHistogram(COUNTS)
  readonly #run = createHistogram(TIMES)
  readonly #queue = createHistogram(TIMES)
  readonly #firstToken = createHistogram(TIMES)
  readonly #betweenTokens = createHistogram(TIMES)
  /** The least recently served first. */
  readonly #clients = new Map<string, { tokens: number, weight: number }>()
  #tokens = 0

  /** Counts a run of so many tokens of so many sequences. */
  ran (tokens: number, sequences: number, ms: number): void {
    this.#runTokens.record(tokens)
    this.#runSequences.record(sequences)
    record(this.#run, ms)
  }

  /** Counts tokens that were computed for a client. */
  served (client: string, weight: number, tokens: number): void {
    const before = this.#clients.get(client)?.tokens ?? 0
    this.#clients.delete(client)
    this.#clients.set(client, { tokens: before + tokens, weight })
    if (this.#clients.size > MAX_COUNTED_CLIENTS) this.#clients.delete(this.#clients.keys().next().value as string)
    this.#tokens += tokens
  }

  /** Counts the time from the coming of a request to the beginning of its first run. */
  queued (ms: number): void {
    record(this.#queue, ms)
  }

  /** Counts the time from the coming of a prompt to its answer. */
  answeredPrompt (ms: number): void {
    record(this.#firstToken, ms)
  }

  /** Counts the time from one answer of a sequence to the answer of a decode step: it has the client's own time and the network's. */
  answeredStep (ms: number): void {
    if (ms <= MAX_GAP_MS) record(this.#betweenTokens, ms)
  }

  get status (): ServingStatus {
    return {
      tokens: this.#tokens,
      runTokens: distributionOf(this.#runTokens, 1),
      runSequences: distributionOf(this.#runSequences, 1),
      runMs: distributionOf(this.#run, MICROSECONDS),
      queueMs: distributionOf(this.#queue, MICROSECONDS),
      firstTokenMs: distributionOf(this.#firstToken, MICROSECONDS),
      betweenTokensMs: distributionOf(this.#betweenTokens, MICROSECONDS),
      clients: [...this.#clients].map(([peer, counts]) => ({ peer, ...counts })).sort((a, b) => b.tokens - a.tokens)
    }
  }
}

/** Microseconds in a millisecond. */
const MICROSECONDS = 1000

function record (histogram: RecordableHistogram, ms: number): void {
  histogram.record(Math.min(TIMES.highest, Math.max(TIMES.lowest, Math.round(ms * MICROSECONDS))))
}

function distributionOf (histogram: RecordableHistogram, unit: number): Distribution {
  const { count } = histogram
  if (count === 0) return { count: 0, mean: 0, p50: 0, p90: 0, p99: 0, max: 0 }
  const [p50, p90, p99] = [50, 90, 99].map((share) => histogram.percentile(share) / unit) as [number, number, number]
  return { count, mean: histogram.mean / unit, p50, p90, p99, max: histogram.max / unit }
}
