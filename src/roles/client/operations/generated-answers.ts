import { setTimeout as delay } from 'node:timers/promises'
import type { Waiting } from '../../../api/fields.ts'
import { MidspanError } from '../../../errors.ts'
import type { EncodedQuestion } from '../../../model/tasks/read-questions.ts'
import { protectionOf } from '../../charter-settings.ts'
import { RouteStatistics } from '../../middle/route-statistics.ts'
import type { Client } from '../client.ts'
import { generateTokens, Sequence } from '../generation/generator.ts'
import { Notices } from '../generation/notices.ts'
import { generationRoute, replayOptions } from '../server-route.ts'
import type { Traffic } from '../traffic.ts'

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

/** The code with which servers say that they have no room for another sequence now. */
const CACHE_FULL = 'E_CACHE_FULL'

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
  for await (const event of notices.among(answersInOrder(new Answerer(client, options, notices), questions, options.texts, signal)))
    yield 'notice' in event ? { type: 'waiting', reason: event.notice } : event
}

async function * answersInOrder (
  answerer: Answerer,
  questions: readonly EncodedQuestion[],
  texts: number,
  signal: AbortSignal
): AsyncGenerator<Exclude<GeneratedEvent, Waiting>> {
  const left = new AbortController()
  const until = AbortSignal.any([signal, left.signal])
  const running: Array<Promise<string>> = []
  let [next, atOnce, told] = [0, texts, 0]
  const start = (question: EncodedQuestion): Promise<string> => {
    const answer = answerer.answer(question, until)
    answer.catch(() => {}) // thrown when it is its turn
    return answer
  }
  try {
    for (const question of questions) {
      while (next < questions.length && running.length < atOnce) running.push(start(questions[next++]!))
      let first = running.shift()!
      for (;;) {
        try {
          while (!await settles(first)) {
            if (answerer.tokens > told) yield { type: 'progress', tokens: told = answerer.tokens }
          }
          yield { question, prediction: await first, traffic: answerer.traffic }
          break
        } catch (error) {
          if (!(error instanceof MidspanError) || error.code !== CACHE_FULL || atOnce === 1) throw error
          // Those that have room come to their end, and nobody takes what they leave.
          atOnce = 1
          await Promise.allSettled(running)
          first = start(question)
        }
      }
    }
  } finally {
    left.abort(new MidspanError('E_CALLER_GONE', 'the evaluation was ended'))
    await Promise.allSettled(running)
  }
}

/** Whether a promise settles before it is time to tell how far the work is. */
async function settles (promise: Promise<unknown>): Promise<boolean> {
  const over = new AbortController()
  try {
    return await Promise.race([promise.then(() => true, () => true), delay(TELL_MS, false, { signal: over.signal })])
  } finally {
    over.abort()
  }
}

/** Answers questions over routes of their own. */
class Answerer {
  /** Tokens generated so far. */
  tokens = 0
  readonly #client: Client
  readonly #options: GenerationOptions
  readonly #notices: Notices
  readonly #statistics = new RouteStatistics()

  constructor (client: Client, options: GenerationOptions, notices: Notices) {
    this.#client = client
    this.#options = options
    this.#notices = notices
  }

  get traffic (): Traffic { return this.#statistics.traffic }

  async answer ({ prompt = new Int32Array() }: EncodedQuestion, signal: AbortSignal): Promise<string> {
    const { context, runtime: { tokenizer, model, boundary, clientModel: { weights } }, leftOut, caught, sessions, adapters, verifier } = this.#client
    const { charter, client: { partition } } = context
    const { maxNewTokens, maxTokens, timeoutMs } = this.#options
    const ids = [...prompt]
    const wanted = Math.min(maxNewTokens, maxTokens - ids.length)
    const route = generationRoute({ context, leftOut, caught, sessions, adapters }, {
      handOver: !verifier.mayCheck(),
      timeoutMs,
      statistics: this.#statistics,
      onWaiting: (reason) => { this.#notices.add(reason) },
      ...replayOptions(model)
    })
    const { hidden: protection, keepsStream } = protectionOf(charter, context.client)
    const settings = { protection, keepsStream, partition, capacity: ids.length + wanted }
    const sequence = await Sequence.open({ weights, boundary, route }, settings, signal)
    const stream = await tokenizer.openDecodeStream(ids)
    let text = ''
    try {
      const { eosIds: stopIds } = await tokenizer.facts()
      for await (const { id, stop } of generateTokens(sequence, ids, { temperature: 0, seed: '0' }, { maxTokens: wanted, stopIds }, signal)) {
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
