import { randomUUID } from 'node:crypto'
import type { Context } from 'hono'
import { chatRequest, type ChatChunk, type ChatCompletion, type ChatRequest } from '../../../api/openai/chat.ts'
import { Assistant, type AssistantPiece } from '../assistant.ts'
import { readBody } from '../body.ts'
import { generateChoices, type ChoiceEvent } from '../choices.ts'
import { errorAnswer, RequestError } from '../errors.ts'
import { eventStream, type Sent } from '../events.ts'
import { chatLogprobs, type Token } from '../logprobs.ts'
import { checkModel, parametersOf, type Input } from '../parameters.ts'
import type { HttpServices } from '../services.ts'
import { UsageCount } from '../usage.ts'

/** Answers a conversation, whole or as server-sent events. */
export async function chatCompletions (context: Context, services: HttpServices): Promise<Response> {
  const request = await readBody(context, chatRequest)
  checkModel(request.model, services.model)
  const texts = parametersOf(request, [inputOf(request)], {
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? Number.MAX_SAFE_INTEGER,
    logprobs: logprobsOf(request)
  })
  const events = generateChoices(services, texts, AbortSignal.any([context.req.raw.signal, services.stopping]))
  const about = { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model: request.model }
  if (!request.stream) return context.json(await completionOf(about, request, events))
  return await eventStream(chunksOf(about, request, events), (error) => errorAnswer(error, services.log).body)
}

type About = Pick<ChatCompletion, 'id' | 'created' | 'model'>

function inputOf (request: ChatRequest): Input {
  return {
    messages: request.messages.map((message) => ({ ...message, role: message.role === 'developer' ? 'system' : message.role })),
    ...(usesTools(request) ? { tools: request.tools, toolChoice: toolChoiceOf(request) } : {}),
    ...jsonSchemaOf(request)
  }
}

function toolChoiceOf ({ tool_choice: choice = 'auto' }: ChatRequest): 'auto' | 'required' | { name: string } {
  if (typeof choice === 'object') return choice.function
  return choice === 'required' ? choice : 'auto'
}

function jsonSchemaOf ({ response_format: format }: ChatRequest): Pick<Input, 'jsonSchema'> {
  if (format === undefined || format.type === 'text') return {}
  return { jsonSchema: format.type === 'json_schema' ? format.json_schema.schema : { type: 'object' } }
}

/** Returns whether the model is told of tools. Throws RequestError. */
function usesTools ({ tools = [], tool_choice: choice = 'auto' }: ChatRequest): boolean {
  if (tools.length === 0 && choice !== 'auto' && choice !== 'none')
    throw new RequestError(400, 'invalid_value', 'tool_choice is for requests with tools', { param: 'tool_choice' })
  return tools.length > 0 && choice !== 'none'
}

function logprobsOf ({ logprobs, top_logprobs: top }: ChatRequest): number | undefined {
  if (top !== undefined && !logprobs)
    throw new RequestError(400, 'invalid_value', 'top_logprobs is for requests with logprobs alone', { param: 'top_logprobs' })
  return logprobs ? top ?? 0 : undefined
}

async function completionOf (about: About, request: ChatRequest, events: AsyncIterable<ChoiceEvent>): Promise<ChatCompletion> {
  const { n, logprobs } = request
  const count = new UsageCount(n)
  const tokens: Token[][] = Array.from({ length: n }, () => [])
  const choices: ChatCompletion['choices'] = []
  for await (const { index, event } of events) {
    if (event.type === 'token') tokens[index]!.push(event)
    if (event.type !== 'done') continue
    count.add(index, event)
    const assistant = new Assistant(usesTools(request))
    assistant.push(event.text)
    assistant.end()
    choices[index] = {
      index,
      message: assistant.message,
      logprobs: logprobs ? chatLogprobs(tokens[index]!) : null,
      finish_reason: assistant.finishReason(event)
    }
  }
  return { ...about, object: 'chat.completion', choices, usage: count.usage }
}

async function * chunksOf (
  about: About,
  request: ChatRequest,
  events: AsyncIterable<ChoiceEvent>
): AsyncGenerator<Sent> {
  const { n, logprobs, stream_options: options } = request
  const count = new UsageCount(n)
  const assistants = Array.from({ length: n }, () => new Assistant(usesTools(request)))
  /** The tokens of each choice whose text was not sent yet. */
  const tokens = Array.from({ length: n }, (): Token[] => [])
  const begun = new Set<number>()
  const withUsage = options?.include_usage === true
  const chunk = (choices: ChatChunk['choices'], usage: ChatChunk['usage'] = null): Sent => {
    const data: ChatChunk = { ...about, object: 'chat.completion.chunk', choices, ...(withUsage ? { usage } : {}) }
    return { data }
  }
  const probabilities = (index: number): ChatChunk['choices'][number]['logprobs'] => {
    const taken = tokens[index]!.splice(0)
    return logprobs && taken.length > 0 ? chatLogprobs(taken) : null
  }
  function * delta (index: number, { text, calls }: AssistantPiece): Generator<Sent> {
    const first = assistants[index]!.callCount - calls.length
    if (text !== '') yield chunk([{ index, delta: { content: text }, logprobs: probabilities(index), finish_reason: null }])
    for (const [i, call] of calls.entries())
      yield chunk([{ index, delta: { tool_calls: [{ index: first + i, ...call }] }, logprobs: null, finish_reason: null }])
  }
  for await (const { index, event } of events) {
    if (event.type === 'waiting') {
      yield { comment: `waiting: ${event.reason}` }
      continue
    }
    if (!begun.has(index)) {
      begun.add(index)
      yield chunk([{ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }])
    }
    if (event.type === 'token') tokens[index]!.push(event)
    const assistant = assistants[index]!
    if (event.type === 'text') yield * delta(index, assistant.push(event.text))
    if (event.type === 'done') {
      count.add(index, event)
      yield * delta(index, assistant.end())
      yield chunk([{ index, delta: {}, logprobs: probabilities(index), finish_reason: assistant.finishReason(event) }])
    }
  }
  if (withUsage) yield chunk([], count.usage)
}
