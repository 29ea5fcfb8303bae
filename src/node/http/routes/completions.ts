import { randomUUID } from 'node:crypto'
import type { Context } from 'hono'
import { completionRequest, type Completion, type CompletionRequest } from '../../../api/openai/completions.ts'
import { readBody } from '../body.ts'
import { generateChoices, type ChoiceEvent } from '../choices.ts'
import { errorAnswer } from '../errors.ts'
import { eventStream, type Sent } from '../events.ts'
import { completionLogprobs, type Token } from '../logprobs.ts'
import { checkModel, parametersOf, type Input } from '../parameters.ts'
import type { HttpServices } from '../services.ts'
import { finishReasonOf, UsageCount } from '../usage.ts'

/** Continues one or several prompts, whole or as server-sent events. */
export async function completions (context: Context, services: HttpServices): Promise<Response> {
  const request = await readBody(context, completionRequest)
  checkModel(request.model, services.model)
  const texts = parametersOf(request, inputsOf(request.prompt), {
    maxTokens: request.max_tokens, logprobs: request.logprobs, ignoreEos: request.ignore_eos
  })
  const events = generateChoices(services, texts, AbortSignal.any([context.req.raw.signal, services.stopping]))
  const about = { id: `cmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model: request.model }
  if (!request.stream) return context.json(await completionOf(about, request, texts.length, events))
  return await eventStream(eventsOf(about, request, texts.length, events), (error) => errorAnswer(error, services.log).body)
}

type About = Pick<Completion, 'id' | 'created' | 'model'>

/** Returns the prompts: a list of numbers is one, and a list of anything else has several. */
function inputsOf (prompt: CompletionRequest['prompt']): readonly Input[] {
  if (typeof prompt === 'string') return [{ prompt }]
  if (isIds(prompt)) return [{ ids: prompt }]
  return prompt.map((each) => typeof each === 'string' ? { prompt: each } : { ids: each })
}

function isIds (prompt: readonly unknown[]): prompt is readonly number[] {
  return typeof prompt[0] === 'number'
}

async function completionOf (
  about: About,
  { n, logprobs }: CompletionRequest,
  count: number,
  events: AsyncIterable<ChoiceEvent>
): Promise<Completion> {
  const usage = new UsageCount(n)
  const tokens: Token[][] = Array.from({ length: count }, () => [])
  const choices: Completion['choices'] = []
  for await (const { index, event } of events) {
    if (event.type === 'token') tokens[index]!.push(event)
    if (event.type !== 'done') continue
    usage.add(index, event)
    choices[index] = {
      index,
      text: event.text,
      logprobs: logprobs === undefined ? null : completionLogprobs(tokens[index]!),
      finish_reason: finishReasonOf(event)
    }
  }
  return { ...about, object: 'text_completion', choices, usage: usage.usage }
}

async function * eventsOf (
  about: About,
  { n, logprobs, stream_options: options }: CompletionRequest,
  count: number,
  events: AsyncIterable<ChoiceEvent>
): AsyncGenerator<Sent> {
  const usage = new UsageCount(n)
  const waiting = Array.from({ length: count }, (): { tokens: Token[], offset: number } => ({ tokens: [], offset: 0 }))
  const withUsage = options?.include_usage === true
  const sent = (choices: Completion['choices'], told: Completion['usage'] = null): Sent => {
    const data: Completion = { ...about, object: 'text_completion', choices, ...(withUsage ? { usage: told } : {}) }
    return { data }
  }
  const probabilities = (index: number): Completion['choices'][number]['logprobs'] => {
    const choice = waiting[index]!
    const taken = choice.tokens.splice(0)
    if (logprobs === undefined || taken.length === 0) return null
    const told = completionLogprobs(taken, choice.offset)
    choice.offset += taken.reduce((total, { text }) => total + text.length, 0)
    return told
  }
  for await (const { index, event } of events) {
    if (event.type === 'waiting') yield { comment: `waiting: ${event.reason}` }
    if (event.type === 'token') waiting[index]!.tokens.push(event)
    if (event.type === 'text') yield sent([{ index, text: event.text, logprobs: probabilities(index), finish_reason: null }])
    if (event.type === 'done') {
      usage.add(index, event)
      yield sent([{ index, text: '', logprobs: probabilities(index), finish_reason: finishReasonOf(event) }])
    }
  }
  if (withUsage) yield sent([], usage.usage)
}
