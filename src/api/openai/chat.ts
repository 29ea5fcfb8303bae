import { z } from 'zod'
import { chatTokenLimits, created, finishReason, samplingFields, topLogprobs, unsupported, unsupportedList, usage } from './fields.ts'

/** The conversation and the settings of `POST /v1/chat/completions`, and what it answers. */

const textPart = z.strictObject({
  type: z.literal('text', { error: 'is not supported: text alone is read' }),
  text: z.string()
})

const message = z.strictObject({
  role: z.enum(['system', 'developer', 'user', 'assistant'], { error: 'is not one of system, developer, user and assistant' })
    .describe('developer stands for system'),
  content: z.union([z.string(), z.array(textPart).min(1)]),
  name: z.string().optional(),
  reasoning_content: z.string().optional().describe('what an assistant thought before it answered')
})

export const chatRequest = z.strictObject({
  messages: z.array(message).min(1),
  ...samplingFields,
  ...chatTokenLimits,
  logprobs: z.boolean().default(false).describe('tell the probability of each token'),
  top_logprobs: topLogprobs.optional().describe('tell this many of the likeliest tokens in the place of each token'),
  response_format: z.object({ type: z.literal('text', { error: 'is not supported: a text has no form to keep to' }) }).optional(),
  tools: unsupportedList(),
  functions: unsupportedList(),
  tool_choice: unsupported('none'),
  parallel_tool_calls: z.boolean().optional().describe('without a meaning, since there are no tools'),
  store: unsupported(false)
})

export type ChatRequest = z.output<typeof chatRequest>

const tokenLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int()).nullable().describe('the UTF-8 bytes of the token; null for a part of a character')
})

const chatLogprobs = z.object({
  content: z.array(tokenLogprob.extend({ top_logprobs: z.array(tokenLogprob) })),
  refusal: z.null()
})

export type ChatLogprobs = z.output<typeof chatLogprobs>

export const chatCompletion = z.object({
  id: z.string(),
  object: z.literal('chat.completion'),
  created,
  model: z.string(),
  choices: z.array(z.object({
    index: z.int(),
    message: z.object({ role: z.literal('assistant'), content: z.string(), refusal: z.null() }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: finishReason
  })),
  usage
})

export type ChatCompletion = z.output<typeof chatCompletion>

export const chatChunk = z.object({
  id: z.string(),
  object: z.literal('chat.completion.chunk'),
  created,
  model: z.string(),
  choices: z.array(z.object({
    index: z.int(),
    delta: z.object({ role: z.literal('assistant').optional(), content: z.string().optional() }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: finishReason.nullable()
  })).describe('one choice; none in the event that tells the usage'),
  usage: usage.nullable().optional().describe('where stream_options.include_usage asks for it: in the event before the last one')
})

export type ChatChunk = z.output<typeof chatChunk>
