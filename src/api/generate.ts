import { z } from 'zod'
import { withhold } from './data.ts'
import { count, span, timeoutMs, traffic, waiting } from './fields.ts'
import { isShallow } from './json.ts'
import { operation } from './operation.ts'
import { stageCheck } from './stage-checks.ts'

const contentPart = z.union([z.string(), z.strictObject({ type: z.literal('text'), text: z.string() })])

/** Texts that may end a text, as OpenAI's API bounds them. */
export const MAX_STOPS = 4

/** A longer text that ends a text is none, and what may be its beginning is held back. */
export const MAX_STOP_CHARACTERS = 1024

/** The likeliest tokens that are told with each token, at most, as OpenAI's API bounds them. */
export const MAX_TOP_LOGPROBS = 20

/** A bias beyond this forbids a token, or all others: the logits of real models differ by less. */
export const MAX_LOGIT_BIAS = 100

/** An object of another program's, such as a JSON Schema. */
export const jsonObject = z.record(z.string(), z.unknown())
  .refine((value) => isShallow(value), { error: 'is nested too deep' })

/** A call of a tool, as OpenAI's API has it: the arguments are a text of JSON. */
export const toolCall = z.strictObject({
  id: z.string().optional(),
  type: z.literal('function').default('function'),
  function: z.strictObject({ name: z.string().min(1), arguments: z.string() })
})

/** A tool that a model may ask for, as OpenAI's API has it. */
export const tool = z.strictObject({
  type: z.literal('function', { error: 'is not supported: functions alone are tools' }),
  function: z.strictObject({
    name: z.string().min(1),
    description: z.string().optional(),
    parameters: jsonObject.optional().describe('a JSON Schema of the arguments'),
    strict: z.boolean().nullable().optional().describe('whether the arguments are kept to the schema also where the model is free to call')
  })
})

export type Tool = z.output<typeof tool>

/** A message of a conversation, in the shape that training data has it. */
const message = z.strictObject({
  role: z.string(),
  content: z.union([z.string(), z.array(contentPart).readonly()]),
  reasoning_content: z.string().optional(),
  name: z.string().optional(),
  tool_calls: z.array(toolCall).min(1).readonly().optional().describe('the calls that an assistant asked for'),
  tool_call_id: z.string().optional().describe('the call that a message of the role tool answers')
})

const leg = z.object({
  server: z.string().describe('the peer id of a server that carried the text'),
  blocks: span,
  tokens: count.describe('tokens that it computed'),
  replayedTokens: count.describe('tokens among them that it was sent again, in place of a server that was lost'),
  meanMs: z.number().describe('milliseconds that it needed for hidden states from their coming to their leaving, on average, as it says itself'),
  share: z.number().describe("the share of the text's time that it needed"),
  handsOver: z.boolean().describe('whether its hidden states went from it to the next server, and not over this client')
})

const tokenLogprob = z.object({
  id: count,
  text: z.string().describe('the text of the token after the one before it; a part of a character is U+FFFD'),
  logprob: z.number().describe("the natural logarithm of the token's probability in the model, before temperature, penalties and biases")
})

const penalty = z.number().min(-2).max(2).optional()

export type TokenLogprob = z.output<typeof tokenLogprob>

export type Message = z.output<typeof message>

export const generate = operation({
  about: 'Continues a prompt',
  parameters: z.strictObject({
    prompt: z.string().optional().describe('text to continue'),
    messages: z.array(message).min(1).readonly().optional().describe(
      'a conversation to answer'
    ),
    tools: z.array(tool).min(1).readonly().optional().describe('tools that the model is told of, where its chat template tells of tools'),
    toolChoice: z.union([z.enum(['auto', 'required']), z.strictObject({ name: z.string() })]).default('auto').describe(
      'whether the model is free to ask for tools, has to ask for one or more, or for the one of a name'
    ),
    jsonSchema: jsonObject.optional().describe('a JSON Schema: the text is JSON that it describes, unless a limit cuts it off'),
    ids: z.array(z.int().min(0)).min(1).readonly().optional().describe('token ids to continue, exactly as given'),
    maxTokens: z.int().min(1).default(128).describe('tokens to generate at most'),
    temperature: z.number().min(0).default(0).describe('0 takes the likeliest token'),
    topK: z.int().min(0).optional().describe('choose among this many likeliest tokens'),
    topP: z.number().positive().max(1).optional().describe('choose among the likeliest tokens of this probability together'),
    logitBias: z.record(z.string().regex(/^\d{1,9}$/, 'is not a token id'), z.number().min(-MAX_LOGIT_BIAS).max(MAX_LOGIT_BIAS)).optional()
      .describe('what is added to the logits of tokens, by their ids'),
    presencePenalty: penalty.describe('what is subtracted from the logits of tokens that were generated before'),
    frequencyPenalty: penalty.describe('what is subtracted from the logit of a token for each time that it was generated before'),
    stop: z.array(z.string().min(1).max(MAX_STOP_CHARACTERS)).max(MAX_STOPS).readonly().optional().describe(
      'texts before the first of which the text ends'
    ),
    ignoreEos: z.boolean().optional().describe(
      'whether the text goes on after a token at which the model ends it; true for ids unless given, and false for other inputs'
    ),
    logprobs: z.int().min(0).max(MAX_TOP_LOGPROBS).optional().describe(
      'tell the probability of each token, and this many of the likeliest tokens in its place'
    ),
    seed: z.int().min(0).optional().describe('the same seed gives the same text'),
    handOver: z.boolean().default(true)
      .describe('servers hand hidden states over to one another where they can, unless this client may check them; false: they all go over this client'),
    batch: z.boolean().default(false)
      .describe('the text is one of many for which nobody waits: servers compute those of others first, and leave these a share'),
    verify: z.number().min(0).max(1).optional().describe(
      'the probability that the servers of the text are checked before the operation ends; unless given, the daemon checks texts ' +
        'in the background, as many as its setting says'
    ),
    speculate: z.enum(['off', 'lookup', 'history', 'map']).optional().describe(
      'where tokens come from that are sent before they are known to be next, so that one round trip gives several: nowhere, the text ' +
        "itself, this client's texts since the daemon started too, or also a map of the middle that the client learns from the states that " +
        'pass. Each is a hidden state more that is released. Unless given, history; off where the client adds noise'
    ),
    withhold,
    timeoutMs
  }),
  progress: {
    text: z.object({ type: z.literal('text'), text: z.string().describe('the next piece of the text') }),
    token: z.object({
      type: z.literal('token'),
      ...tokenLogprob.shape,
      top: z.array(tokenLogprob).readonly().describe('the likeliest tokens in its place, the likeliest first')
    }).describe('a token with its probability, where `logprobs` was given'),
    waiting
  },
  result: z.object({
    type: z.literal('done'),
    text: z.string().describe('the whole text'),
    ids: z.array(count).readonly().describe('the token ids of the text'),
    reason: z.enum(['stop', 'length', 'context'])
      .describe('stop: the model ended it, or a text of `stop` did; length: maxTokens were generated; context: a sequence of the federation holds no more tokens'),
    stopText: z.string().optional().describe('the text of `stop` that ended it, where one did'),
    promptTokens: count,
    tokens: count.describe('tokens generated'),
    prefillSeconds: z.number().describe('until the first token'),
    decodeSeconds: z.number().describe('from the first token to the last'),
    tokensPerSecond: z.number(),
    roundTrips: count.describe('round trips through the middle, that of the prompt included'),
    releasedStates: count.describe("hidden states that were released: the prompt's, the text's, and those of drafted tokens that were not next"),
    reusedTokens: count.describe('tokens of the prompt whose hidden states the servers had from the turn of the chat before, and which were not sent again'),
    draftedTokens: count.describe('tokens that were sent before they were known to be next'),
    acceptedTokens: count.describe('those of them that were next'),
    ...traffic,
    checks: z.array(stageCheck).readonly().optional().describe('how the servers of the text were checked, where `verify` was given and they were'),
    route: z.array(leg).readonly().describe('the servers that carried the text, by their blocks'),
    networkShare: z.number().describe("the share of the text's time in which hidden states were on their way")
  })
})
