import { z } from 'zod'
import { created, finishReason, MAX_CHOICES, samplingFields, tokenLimits, topLogprobs, unsupported, usage } from './fields.ts'

/** The prompts and the settings of `POST /v1/completions`, and what it answers. */

const ids = z.array(z.int().min(0)).min(1)

export const completionRequest = z.strictObject({
  prompt: z.union([z.string(), ids, z.array(z.string()).min(1).max(MAX_CHOICES), z.array(ids).min(1).max(MAX_CHOICES)])
    .describe('a text, or token ids, or several of either'),
  ...samplingFields,
  max_tokens: tokenLimits.max_tokens.default(16),
  logprobs: topLogprobs.optional().describe('tell the probability of each token, and this many of the likeliest in its place'),
  ignore_eos: z.boolean().default(false).describe('whether a text goes on after the token at which the model ends it'),
  best_of: unsupported(1),
  echo: unsupported(false),
  suffix: unsupported('')
})

export type CompletionRequest = z.output<typeof completionRequest>

const logprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number()),
  top_logprobs: z.array(z.record(z.string(), z.number())),
  text_offset: z.array(z.int()).describe('where in the text of all tokens each token begins, in UTF-16 units')
})

export type CompletionLogprobs = z.output<typeof logprobs>

const choice = z.object({
  index: z.int(),
  text: z.string(),
  logprobs: logprobs.nullable(),
  finish_reason: finishReason.nullable().describe('null in an event that is not the last of its choice')
})

/** A completion, and an event of one that is streamed: both have the same shape. */
export const completion = z.object({
  id: z.string(),
  object: z.literal('text_completion'),
  created,
  model: z.string(),
  choices: z.array(choice),
  usage: usage.nullable().optional().describe('in an event: where stream_options.include_usage asks for it')
})

export type Completion = z.output<typeof completion>
