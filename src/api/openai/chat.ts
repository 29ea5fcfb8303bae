import { z } from 'zod'
import { jsonObject, tool, toolCall } from '../generate.ts'
import { chatTokenLimits, created, finishReason, samplingFields, topLogprobs, unsupported, unsupportedList, usage } from './fields.ts'

/** The conversation and the settings of `POST /v1/chat/completions`, and what it answers. */

const textPart = z.strictObject({
  type: z.literal('text', { error: 'is not supported: text alone is read' }),
  text: z.string()
})

const message = z.strictObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool'], { error: 'is not one of system, developer, user, assistant and tool' })
    .describe('developer stands for system'),
  content: z.union([z.string(), z.array(textPart).min(1)]).default('').describe('may be absent beside tool_calls alone'),
  name: z.string().optional(),
  reasoning_content: z.string().optional().describe('what an assistant thought before it answered'),
  tool_calls: z.array(toolCall).min(1).optional().describe('the calls that an assistant asked for'),
  tool_call_id: z.string().optional().describe('the call that a message of the role tool answers')
}).refine(({ content, tool_calls: calls }) => content !== '' || calls !== undefined, { path: ['content'], error: 'is missing' })

export const chatRequest = z.strictObject({
  messages: z.array(message).min(1),
  ...samplingFields,
  ...chatTokenLimits,
  logprobs: z.boolean().default(false).describe('tell the probability of each token'),
  top_logprobs: topLogprobs.optional().describe('tell this many of the likeliest tokens in the place of each token'),
  response_format: z.discriminatedUnion('type', [
    z.strictObject({ type: z.literal('text') }),
    z.strictObject({ type: z.literal('json_object') }),
    z.strictObject({
      type: z.literal('json_schema'),
      json_schema: z.strictObject({
        name: z.string(),
        description: z.string().optional(),
        schema: jsonObject.default({}).describe('a JSON Schema; what a text cannot be kept to is refused by name'),
        strict: z.boolean().nullable().optional().describe('the text is kept to the schema whether it is set or not')
      })
    })
  ], { error: 'is not one of text, json_object and json_schema' }).optional().describe('the form that the text is kept to, unless a limit cuts it off'),
  tools: z.array(tool).optional().describe('tools that the model may ask for, where its chat template tells of tools'),
  functions: unsupportedList(),
  tool_choice: z.union([
    z.enum(['auto', 'none', 'required']),
    z.strictObject({ type: z.literal('function'), function: z.strictObject({ name: z.string() }) })
  ], { error: 'is not one of auto, none, required and a function' }).optional(),
  parallel_tool_calls: unsupported(true),
  store: unsupported(false)
})

export type ChatRequest = z.output<typeof chatRequest>

const tokenLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int()).nullable().describe('the UTF-8 bytes of the token; null for a part of a character')
})

const answeredCall = z.object({
  id: z.string(),
  type: z.literal('function'),
  function: z.object({ name: z.string(), arguments: z.string().describe('a text of JSON') })
})

export type AnsweredCall = z.output<typeof answeredCall>

const chatFinishReason = z.enum([...finishReason.options, 'tool_calls'])
  .describe('stop: the model ended it, or a text of stop did; length: a limit did; tool_calls: it asks for tools')

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
    message: z.object({
      role: z.literal('assistant'),
      content: z.string().nullable().describe('null where there are calls of tools alone'),
      refusal: z.null(),
      tool_calls: z.array(answeredCall).optional()
    }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: chatFinishReason
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
    delta: z.object({
      role: z.literal('assistant').optional(),
      content: z.string().optional(),
      tool_calls: z.array(answeredCall.extend({ index: z.int() })).optional().describe('whole calls')
    }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: chatFinishReason.nullable()
  })).describe('one choice; none in the event that tells the usage'),
  usage: usage.nullable().optional().describe('where stream_options.include_usage asks for it: in the event before the last one')
})

export type ChatChunk = z.output<typeof chatChunk>
