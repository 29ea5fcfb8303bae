import { randomInt } from 'node:crypto'
import type { Message } from '../../../api/generate.ts'
import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import type { StageCheck } from '../../../api/stage-checks.ts'
import { isRetryable, MidspanError, UsageError } from '../../../errors.ts'
import type { LogProbabilities } from '../../../model/generation/log-probabilities.ts'
import type { SamplingOptions } from '../../../model/generation/sampling.ts'
import type { ChatMessage } from '../../../model/text/chat-template.ts'
import { joinParts } from '../../../model/text/records.ts'
import { StopTexts } from '../../../model/text/stop-texts.ts'
import { protectionOf } from '../../charter-settings.ts'
import { RouteRecord } from '../../middle/route-record.ts'
import { RouteStatistics } from '../../middle/route-statistics.ts'
import type { Client } from '../client.ts'
import { generateTokens, Sequence, type GeneratedToken } from '../generation/generator.ts'
import { Notices } from '../generation/notices.ts'
import type { ClientRuntime } from '../runtime.ts'
import { generationRoute, replayOptions } from '../server-route.ts'

/** What OpenAI's API tells in place of the logarithm of a probability that is too small to tell. */
const LOWEST_LOGPROB = -9999

/** Thrown for a prompt that leaves no room for a token. */
export class ContextLengthError extends MidspanError {
  constructor (promptTokens: number, sequenceTokens: number) {
    super('E_CONTEXT_LENGTH', `the prompt has ${promptTokens} tokens, and a sequence of this federation ${sequenceTokens}`, {
      next: 'shorten it'
    })
  }
}

/** Yields text that continues a prompt, as it comes. */
export async function * generate (
  { context, runtime, adapters, sessions, leftOut, caught, verifier, state }: Client,
  { maxTokens, handOver, timeoutMs, verify, stop: stops = [], logprobs, ignoreEos, ...given }: ParametersOf<'generate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'generate'>> {
  const { charter, client: { partition } } = context
  const { tokenizer, model, boundary, clientModel: { weights } } = runtime
  const prompt = await promptIds(runtime, given)
  const room = charter.limits.maxSequenceTokens - prompt.length
  if (room < 1) throw new ContextLengthError(prompt.length, charter.limits.maxSequenceTokens)
  const notices = new Notices()
  for (const notice of verifier.takeNotices()) notices.add(notice)
  try {
    await adapters.refreshAlone(signal)
  } catch (error) {
    signal.throwIfAborted()
    if (!isRetryable(error) || state.lacking.length > 0) throw error
    notices.add(`${(error as Error).message}: the text is made with the adapters that this client has`)
  }
  const statistics = new RouteStatistics()
  const record = verifier.draw(verify) ? new RouteRecord() : undefined
  const route = generationRoute({ context, leftOut, caught, sessions, adapters }, {
    handOver: handOver && !verifier.mayCheck(verify),
    timeoutMs,
    statistics,
    onWaiting: (reason) => {
      const wrong = caught.all.map(({ server }) => server)
      notices.add(wrong.length === 0 ? reason : `${reason}; left out because they computed wrong: ${wrong.join(', ')}`)
    },
    ...replayOptions(model),
    ...(record === undefined ? {} : { record })
  })
  const opened: { sequence?: Sequence, atMs: number } = { atMs: performance.now() }
  const wanted = Math.min(maxTokens, room)
  const tokens = async function * (): AsyncGenerator<GeneratedToken> {
    const { hidden: protection, keepsStream } = protectionOf(charter, context.client)
    opened.sequence = await Sequence.open(
      { weights, boundary, route },
      { protection, keepsStream, partition, capacity: prompt.length + wanted },
      signal
    )
    opened.atMs = performance.now()
    yield * generateTokens(opened.sequence, prompt, samplingOf(given), {
      maxTokens: wanted,
      stopIds: ignoreEos ?? given.ids !== undefined ? [] : (await tokenizer.facts()).eosIds,
      logProbabilities: logprobs
    }, signal)
  }
  const stream = await tokenizer.openDecodeStream(prompt)
  try {
    const ids: number[] = []
    let text = ''
    let stopped = false
    const stopTexts = new StopTexts(stops)
    let stopText: string | undefined
    let firstAtMs = opened.atMs
    for await (const event of notices.among(tokens())) {
      if ('notice' in event) {
        yield { type: 'waiting', reason: event.notice }
        continue
      }
      const { id, stop, logProbabilities } = event
      if (ids.length === 0) firstAtMs = performance.now()
      if (logProbabilities !== undefined && !stop) yield await tokenEvent(tokenizer, ids.at(-1) ?? prompt.at(-1)!, id, logProbabilities)
      ids.push(id)
      stopped = stop
      const passed = stop ? { text: '' } : stopTexts.push(await stream.push(id))
      text += passed.text
      if (passed.text !== '') yield { type: 'text', text: passed.text }
      stopText = passed.stop
      if (stopText !== undefined) break
    }
    if (stopText === undefined) {
      const last = stopTexts.push(await stream.end())
      stopText = last.stop
      const rest = last.text + stopTexts.end()
      text += rest
      if (rest !== '') yield { type: 'text', text: rest }
    }
    const endedAtMs = performance.now()
    const decodeSeconds = (endedAtMs - firstAtMs) / 1000
    const route = statistics.legs.filter(({ answers }) => answers > 0)
    const { traffic, networkMs } = statistics
    let checks: StageCheck[] | undefined
    if (record !== undefined && verify !== undefined) {
      // Whoever asks for a check waits for it. What the servers keep of the text is freed before.
      await opened.sequence?.close()
      delete opened.sequence
      yield { type: 'waiting', reason: 'other servers compute the same, to check those of the text' }
      checks = await verifier.check(record, signal)
      for (const reason of verifier.takeNotices()) yield { type: 'waiting', reason }
    }
    yield {
      type: 'done',
      text,
      ids,
      reason: stopped || stopText !== undefined ? 'stop' : ids.length < maxTokens ? 'context' : 'length',
      ...(stopText === undefined ? {} : { stopText }),
      promptTokens: prompt.length,
      tokens: ids.length,
      prefillSeconds: (firstAtMs - opened.atMs) / 1000,
      decodeSeconds,
      tokensPerSecond: ids.length > 1 ? (ids.length - 1) / decodeSeconds : 0,
      ...traffic,
      ...(checks === undefined ? {} : { checks }),
      route: route.map(({ server, span, tokens, replayedTokens, answers, ms, handsOver }) => ({
        server,
        blocks: span,
        tokens,
        replayedTokens,
        meanMs: ms / answers,
        share: Math.min(ms / (endedAtMs - opened.atMs), 1),
        handsOver
      })),
      networkShare: Math.min(networkMs / (endedAtMs - opened.atMs), 1)
    }
  } finally {
    stream.end().catch(() => {}) // ended already, unless the generation was given up
    await opened.sequence?.close()
    if (record !== undefined && verify === undefined) verifier.later(record)
  }
}

type GivenSampling = Pick<
  ParametersOf<'generate'>,
  'temperature' | 'topK' | 'topP' | 'logitBias' | 'presencePenalty' | 'frequencyPenalty' | 'seed'
>

function samplingOf (
  { temperature, topK, topP, logitBias, presencePenalty, frequencyPenalty, seed = randomInt(2 ** 32) }: GivenSampling
): SamplingOptions {
  return {
    temperature,
    seed: String(seed),
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
    ...(logitBias === undefined ? {} : { logitBias: new Map(Object.entries(logitBias).map(([id, bias]) => [Number(id), bias])) }),
    ...(presencePenalty === undefined ? {} : { presencePenalty }),
    ...(frequencyPenalty === undefined ? {} : { frequencyPenalty })
  }
}

/** Returns what is told of a token that comes after the token `before`. */
async function tokenEvent (
  tokenizer: ClientRuntime['tokenizer'],
  before: number,
  id: number,
  { chosen, top }: LogProbabilities
): Promise<EventOf<'generate'>> {
  const [text = '', ...texts] = await tokenizer.tokenTexts([id, ...top.map((other) => other.id)], before)
  return {
    type: 'token',
    id,
    text,
    logprob: finite(chosen),
    top: top.map((other, i) => ({ id: other.id, text: texts[i] ?? '', logprob: finite(other.logProbability) }))
  }
}

/** JSON has no infinity: the logarithm of a probability of 0 is told as the lowest number, as OpenAI's API tells it. */
function finite (logProbability: number): number {
  return Math.max(logProbability, LOWEST_LOGPROB)
}

async function promptIds (
  { tokenizer, model }: ClientRuntime,
  { prompt, messages, ids, tools }: Pick<ParametersOf<'generate'>, 'prompt' | 'messages' | 'ids' | 'tools'>
): Promise<readonly number[]> {
  if ([prompt, messages, ids].filter((input) => input !== undefined).length !== 1)
    throw new UsageError('there is not one input', 'give a prompt, messages or ids')
  if (tools !== undefined && messages === undefined) throw new UsageError('tools are for messages', 'give messages, or leave the tools out')
  const unknown = ids?.find((id) => id >= model.vocabularySize)
  if (unknown !== undefined) throw new UsageError(`token ${unknown} is not in the vocabulary of ${model.vocabularySize}`)
  if (ids !== undefined) return ids
  const encoded = messages === undefined ? await tokenizer.encode(prompt ?? '') : await tokenizer.encodeChat(messages.map(chatMessage), tools)
  const start = encoded.length > 0 ? encoded : [(await tokenizer.facts()).bosId].filter((id) => id !== undefined)
  if (start.length === 0) throw new UsageError('the prompt has no tokens', 'give some text')
  return start
}

/** Returns a message as chat templates take it. */
function chatMessage ({ role, content, reasoning_content: thought, name, tool_calls: calls, tool_call_id: call }: Message): ChatMessage {
  return {
    role,
    content: typeof content === 'string' ? content : joinParts(content),
    ...(thought === undefined ? {} : { reasoning_content: thought }),
    ...(name === undefined ? {} : { name }),
    ...(calls === undefined ? {} : { tool_calls: calls }),
    ...(call === undefined ? {} : { tool_call_id: call })
  }
}
