import { randomInt, randomUUID } from 'node:crypto'
import type { Message } from '../../../api/generate.ts'
import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import type { StageCheck } from '../../../api/stage-checks.ts'
import { isRetryable, UsageError } from '../../../errors.ts'
import type { ChatMessage } from '../../../model/text/chat-template.ts'
import { joinParts } from '../../../model/text/records.ts'
import { protectionOf } from '../../charter-settings.ts'
import { RouteRecord } from '../../middle/route-record.ts'
import { RouteStatistics } from '../../middle/route-statistics.ts'
import type { Client } from '../client.ts'
import { generateTokens, Sequence, type GeneratedToken } from '../generation/generator.ts'
import { Notices } from '../generation/notices.ts'
import type { ClientRuntime } from '../runtime.ts'
import { generationRoute, replayOptions } from '../server-route.ts'

/** Yields text that continues a prompt, as it comes. */
export async function * generate (
  { context, runtime, ledger, adapters, sessions, leftOut, caught, verifier, state }: Client,
  { maxTokens, temperature, topK, topP, handOver, timeoutMs, verify, seed = randomInt(2 ** 32), ...input }: ParametersOf<'generate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'generate'>> {
  const { charter, client: { partition } } = context
  const { tokenizer, model, boundary, clientModel: { weights } } = runtime
  const prompt = await promptIds(runtime, input)
  const room = charter.limits.maxSequenceTokens - prompt.length
  if (room < 1)
    throw new UsageError(
      `the prompt has ${prompt.length} tokens, and a sequence of this federation ${charter.limits.maxSequenceTokens}`,
      'shorten it'
    )
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
      { weights, boundary, route, ledger },
      { protection, keepsStream, partition, capacity: prompt.length + wanted, text: randomUUID() },
      signal
    )
    opened.atMs = performance.now()
    const sampling = { temperature, seed: String(seed), ...(topK === undefined ? {} : { topK }), ...(topP === undefined ? {} : { topP }) }
    yield * generateTokens(opened.sequence, prompt, sampling, {
      maxTokens: wanted,
      stopIds: input.ids === undefined ? (await tokenizer.facts()).eosIds : []
    }, signal)
  }
  const stream = await tokenizer.openDecodeStream(prompt)
  try {
    const ids: number[] = []
    let text = ''
    let stopped = false
    let firstAtMs = opened.atMs
    for await (const event of notices.among(tokens())) {
      if ('notice' in event) {
        yield { type: 'waiting', reason: event.notice }
        continue
      }
      const { id, stop } = event
      if (ids.length === 0) firstAtMs = performance.now()
      ids.push(id)
      stopped = stop
      const piece = stop ? '' : await stream.push(id)
      text += piece
      if (piece !== '') yield { type: 'text', text: piece }
    }
    const rest = await stream.end()
    if (rest !== '') yield { type: 'text', text: rest }
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
      text: text + rest,
      ids,
      reason: stopped ? 'stop' : ids.length < maxTokens ? 'context' : 'length',
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

async function promptIds (
  { tokenizer, model }: ClientRuntime,
  { prompt, messages, ids }: Pick<ParametersOf<'generate'>, 'prompt' | 'messages' | 'ids'>
): Promise<readonly number[]> {
  if ([prompt, messages, ids].filter((input) => input !== undefined).length !== 1)
    throw new UsageError('there is not one input', 'give a prompt, messages or ids')
  const unknown = ids?.find((id) => id >= model.vocabularySize)
  if (unknown !== undefined) throw new UsageError(`token ${unknown} is not in the vocabulary of ${model.vocabularySize}`)
  if (ids !== undefined) return ids
  const encoded = messages === undefined ? await tokenizer.encode(prompt ?? '') : await tokenizer.encodeChat(messages.map(chatMessage))
  const start = encoded.length > 0 ? encoded : [(await tokenizer.facts()).bosId].filter((id) => id !== undefined)
  if (start.length === 0) throw new UsageError('the prompt has no tokens', 'give some text')
  return start
}

/** Returns a message as chat templates take it. */
function chatMessage ({ role, content, reasoning_content: thought, name }: Message): ChatMessage {
  return {
    role,
    content: typeof content === 'string' ? content : joinParts(content),
    ...(thought === undefined ? {} : { reasoning_content: thought }),
    ...(name === undefined ? {} : { name })
  }
}
