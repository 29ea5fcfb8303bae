import { randomUUID } from 'node:crypto'
import type { Waiting } from '../../../api/fields.ts'
import { MidspanError } from '../../../errors.ts'
import { Speculation } from '../../../model/generation/speculation/speculation.ts'
import type { EncodedQuestion } from '../../../model/tasks/read-questions.ts'
import { protectionOf } from '../../charter-settings.ts'
import { RouteStatistics } from '../../middle/route-statistics.ts'
import type { Client } from '../client.ts'
import { generateTokens } from '../generation/generator.ts'
import { Notices } from '../generation/notices.ts'
import { Sequence } from '../generation/sequence.ts'
import { generationRoute, replayOptions } from '../server-route.ts'
import type { Traffic } from '../traffic.ts'
import { inOrder } from './in-order.ts'

export interface GenerationOptions {
  /** Tokens of an answer at most. */
  readonly maxNewTokens: number
  /** Tokens of a sequence at most, its prompt included. */
  readonly maxTokens: number
  /** Texts that are generated at once. */
  readonly texts: number
  readonly timeoutMs: number
}

/** How often it is told how many tokens there are. */
const TELL_MS = 1_000

export type GeneratedEvent =
  | Waiting
  | { readonly type: 'progress', readonly tokens: number }
  | { readonly question: EncodedQuestion, readonly prediction: string, readonly traffic: Traffic }

/**
 * Has each question answered with the likeliest tokens, several at once, so that the servers' runs are full, and yields the answers in the
 * questions' order. Where servers have no room for so many, it goes on with one at a time.
 */
export async function * generatedAnswers (
  client: Client,
  questions: readonly EncodedQuestion[],
  options: GenerationOptions,
  signal: AbortSignal
): AsyncGenerator<GeneratedEvent> {
  const notices = new Notices()
  await client.adapters.refreshAlone(signal)
  for await (const event of notices.among(answers(new Answerer(client, options, notices), questions, options.texts, signal)))
    yield 'notice' in event ? { type: 'waiting', reason: event.notice } : event
}

async function * answers (
  answerer: Answerer,
  questions: readonly EncodedQuestion[],
  texts: number,
  signal: AbortSignal
): AsyncGenerator<Exclude<GeneratedEvent, Waiting>> {
  const work = async (question: EncodedQuestion, until: AbortSignal): Promise<string> => await answerer.answer(question, until)
  const options = { atOnce: texts, wantsRoom: isCacheFull, tickMs: TELL_MS }
  let told = 0
  for await (const event of inOrder(questions, work, options, signal)) {
    if (event !== 'tick') yield { question: event.item, prediction: event.result, traffic: answerer.traffic }
    else if (answerer.tokens > told) yield { type: 'progress', tokens: told = answerer.tokens }
  }
}

/** Whether a server said that it has no room for another sequence now. */
function isCacheFull (error: unknown): boolean {
  return error instanceof MidspanError && error.code === 'E_CACHE_FULL'
}

/** Answers questions over routes of their own. */
class Answerer {
  /** Tokens generated so far. */
  tokens = 0
  readonly #client: Client
  readonly #options: GenerationOptions
  readonly #notices: Notices
  readonly #statistics = new RouteStatistics()
  readonly #speculation = new Speculation()

  constructor (client: Client, options: GenerationOptions, notices: Notices) {
    this.#client = client
    this.#options = options
    this.#notices = notices
  }

  get traffic (): Traffic { return this.#statistics.traffic }

  async answer ({ prompt = new Int32Array() }: EncodedQuestion, signal: AbortSignal): Promise<string> {
    const { context, runtime, leftOut, caught, ledger, sessions, adapters, verifier } = this.#client
    const { tokenizer, model, boundary, clientModel: { weights } } = runtime
    const { charter, client: { partition } } = context
    const { maxNewTokens, maxTokens, timeoutMs } = this.#options
    const ids = [...prompt]
    const wanted = Math.min(maxNewTokens, maxTokens - ids.length)
    const route = generationRoute({ context, leftOut, caught, sessions, adapters }, {
      handOver: !verifier.mayCheck(),
      isBatch: true,
      timeoutMs,
      statistics: this.#statistics,
      onWaiting: (reason) => { this.#notices.add(reason) },
      ...replayOptions(model)
    })
    const { hidden: protection, keepsStream } = protectionOf(charter, context.client)
    const settings = { protection, keepsStream, partition, capacity: ids.length + wanted, text: randomUUID() }
    const sequence = await Sequence.open({ weights, boundary, ledger, route }, settings, signal)
    const stream = await tokenizer.openDecodeStream(ids)
    let text = ''
    try {
      const { eosIds: stopIds } = await tokenizer.facts()
      const drafting = this.#speculation.open('off', ids, ids.length + wanted)
      const sampling = { temperature: 0, seed: '0' }
      for await (const { id, stop } of generateTokens(sequence, ids, sampling, { maxTokens: wanted, stopIds }, drafting, signal)) {
        this.tokens++
        if (!stop) text += await stream.push(id)
      }
    } finally {
      text += await stream.end().catch(() => '')
      await sequence.close()
    }
    return text.trim()
  }
}
