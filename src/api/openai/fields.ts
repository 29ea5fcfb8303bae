import { z } from 'zod'
import { MAX_LOGIT_BIAS, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOP_LOGPROBS } from '../generate.ts'

/** Texts that one request may ask for, over all of its prompts: each is a sequence of its own. */
export const MAX_CHOICES = 16

const UNSUPPORTED = 'is not supported'

/** Makes a field that is known, and of which only a value that asks for nothing is accepted. */
export function unsupported<const T extends string | number | boolean> (neutral: T): z.ZodOptional<z.ZodLiteral<T>> {
  return z.literal(neutral, { error: UNSUPPORTED }).optional()
}

/** Makes a list that is known, and has to be empty. */
export function unsupportedList (): z.ZodOptional<z.ZodArray<z.ZodAny>> {
  return z.array(z.any()).max(0, { error: UNSUPPORTED }).optional()
}

const stopText = z.string().min(1).max(MAX_STOP_CHARACTERS)

const maxTokens = z.int().min(1).optional()

/** Tokens that a text may have, where a request does not say. */
export const tokenLimits = {
  max_tokens: maxTokens.describe('tokens to generate at most')
}

export const chatTokenLimits = {
  max_tokens: maxTokens.describe('the older name of max_completion_tokens'),
  max_completion_tokens: maxTokens.describe('tokens to generate at most; as many as a sequence of the federation holds unless given')
}

/** The fields of both kinds of requests that say how tokens are chosen, and how the text is given. */
export const samplingFields = {
  model: z.string().describe('the id of the model, as /v1/models lists it'),
  temperature: z.number().min(0).max(2).default(1).describe('0 takes the likeliest token'),
  top_p: z.number().positive().max(1).optional().describe('choose among the likeliest tokens of this probability together'),
  top_k: z.int().min(-1).optional().describe('choose among this many likeliest tokens; 0 and -1 stand for all'),
  seed: z.int().min(0).optional().describe('the same seed gives the same text; choice i of a request has the seed plus i'),
  n: z.int().min(1).max(MAX_CHOICES).default(1).describe('choices for each prompt'),
  stop: z.union([stopText, z.array(stopText).max(MAX_STOPS)]).optional().describe('texts before the first of which the text ends'),
  presence_penalty: z.number().min(-2).max(2).optional(),
  frequency_penalty: z.number().min(-2).max(2).optional(),
  logit_bias: z.record(z.string().regex(/^\d{1,9}$/, 'is not a token id'), z.number().min(-MAX_LOGIT_BIAS).max(MAX_LOGIT_BIAS)).optional()
    .describe('what is added to the logits of tokens, by their ids'),
  stream: z.boolean().default(false).describe('whether the text comes in pieces, as server-sent events'),
  stream_options: z.strictObject({
    include_usage: z.boolean().optional().describe('whether an event before the last one tells the usage')
  }).optional(),
  user: z.string().optional().describe('read by nobody')
}

export const topLogprobs = z.int().min(0).max(MAX_TOP_LOGPROBS)

export const created = z.int().describe('seconds since 1970')

export const finishReason = z.enum(['stop', 'length']).describe('stop: the model ended it, or a text of stop did; length: a limit did')

export const usage = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int().describe('of all choices together'),
  total_tokens: z.int()
})

export type Usage = z.output<typeof usage>

/** The shape of every error. */
export const errorBody = z.object({
  error: z.object({
    message: z.string().describe('what, why, and what to do about it'),
    type: z.enum(['invalid_request_error', 'rate_limit_error', 'server_error']),
    param: z.string().nullable().describe('the field of the request that is at fault, if one is'),
    code: z.string().nullable()
  })
})

export type ErrorBody = z.output<typeof errorBody>
