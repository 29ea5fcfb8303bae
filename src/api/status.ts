import { z } from 'zod'
import { count, isoTime, span } from './fields.ts'
import { operation } from './operation.ts'
import { verification } from './stage-checks.ts'

const rowCost = z.object({ bytesPerRow: z.number(), msPerRow: z.number() })

const residuals = z.object({
  setting: z.enum(['saved', 'recomputed', 'auto']),
  policy: z.enum(['saved', 'recomputed']).optional(),
  saved: rowCost.optional(),
  recomputed: rowCost.optional()
})

const training = z.object({
  round: count.describe("the federation's rounds that this peer knows of"),
  active: z.boolean().optional().describe('a client: whether it trains now'),
  done: count.optional().describe('a client: rounds that its run has done'),
  rounds: count.optional().describe('a client: rounds of its run in total'),
  members: count.optional().describe('a server: clients that take part'),
  waitingFor: z.array(z.string()).readonly().optional().describe('a server: peers that the round waits for'),
  missing: z.array(span).readonly().optional().describe(
    'the coordinator: blocks that training waits for, since nobody serves them'
  ),
  fellBack: z.boolean().optional().describe(
    'whether the newest training state was damaged or missing at start, so that an older one is used'
  ),
  residuals: z.array(residuals).readonly().describe('how passes of this peer keep what their way back needs')
})

const distribution = z.object({
  count,
  mean: z.number(),
  p50: z.number().describe('half of the values are at most this'),
  p90: z.number(),
  p99: z.number(),
  max: z.number()
})

const serving = z.object({
  tokens: count.describe('tokens of prompts and of decode steps that were computed'),
  runTokens: distribution.describe('tokens in a run'),
  runSequences: distribution.describe('sequences in a run'),
  runMs: distribution.describe('milliseconds of a run'),
  queueMs: distribution.describe('milliseconds from the coming of a request to its first run'),
  firstTokenMs: distribution.describe('milliseconds from the coming of a prompt to its answer'),
  betweenTokensMs: distribution.describe("milliseconds from one answer of a sequence to the next one, the client's own time included"),
  clients: z.array(z.object({
    peer: z.string(),
    tokens: count.describe('tokens that were computed for it'),
    weight: z.int().describe('its share beside those of others, as its invite says')
  })).readonly().describe('whom it computed for since the start, the most served first; of more than 256, those who were served last')
})

const memory = z.object({
  processBytes: count.describe('memory of the daemon that is not swapped out'),
  deviceBytes: count.describe('bytes on the device: weights, caches, the activations of passes under way, and weights that programs have fixed'),
  cacheBytes: count.describe('bytes of them that the caches of sequences have by now')
})

const generation = z.object({
  sequences: count.describe('sequences that hold cache'),
  cacheBytes: count.describe('bytes of cache that are promised: each sequence has its whole cache counted when it is opened'),
  cacheLimitBytes: count.describe('bytes of cache at most'),
  evictions: count.describe('idle caches given up for other clients, since the start'),
  serving: serving.describe('what it did for texts since the start'),
  memory: memory.describe('what memory is held for')
})

const route = z.object({
  legs: z.array(z.object({
    server: z.string().describe('the peer id of the server'),
    blocks: span,
    roundTripMs: z.number().nullable().describe('milliseconds of a message there and back, as measured last; null where nothing was measured')
  })).readonly().describe('the servers in order; empty where nobody serves some blocks'),
  missing: z.array(span).readonly().describe('the blocks that nobody serves who can be reached and has not failed a short time ago')
})

const member = z.object({
  peerId: z.string(),
  role: z.enum(['client', 'server']),
  how: z.enum(['invite', 'allow-list', 'open', 'certificate']).describe('how it was admitted; certificate: by a server that led before'),
  at: isoTime.describe('when it was admitted: ISO 8601'),
  weight: z.int().optional().describe("the share of servers that its texts have beside others'; absent for 1")
})

export type TrainingStatus = z.output<typeof training>
export type Distribution = z.output<typeof distribution>
export type ServingStatus = z.output<typeof serving>
export type MemoryStatus = z.output<typeof memory>
export type GenerationStatus = z.output<typeof generation>
export type RouteStatus = z.output<typeof route>

export const status = operation({
  about: 'Tells what this peer is and does',
  parameters: z.strictObject({}),
  progress: {},
  result: z.object({
    agent: z.string().describe('name and version of the release'),
    peerId: z.string(),
    role: z.enum(['client', 'server']),
    home: z.string(),
    starting: z.object({
      doing: z.string().describe('what it does now, such as loading blocks'),
      since: isoTime.describe('when it began to do so: ISO 8601')
    }).optional().describe('present while the daemon starts, and answers to nothing but this question'),
    federation: z.object({ id: z.string(), name: z.string() }),
    addresses: z.array(z.string()).readonly().describe('multiaddrs that others are told to dial'),
    listening: z.array(z.string()).readonly().describe('multiaddrs that this peer listens on'),
    device: z.string(),
    deviceReason: z.string().describe('why this device, and why not the others'),
    blocks: span.nullable().describe('a server: the blocks that it serves'),
    partition: z.object({ inputBlocks: count, outputBlocks: count }).nullable().describe('a client: the blocks that it holds'),
    coordinator: z.string().describe('the peer id of the server that leads the rounds of training'),
    connected: z.boolean().describe('a client: to at least one server; a worker: to the coordinator; the coordinator: it listens'),
    disconnectedReason: z.string().nullable()
      .describe('why a client or a worker is connected to no server, and what to do about it; null while it is, or has not tried'),
    members: z.array(member).readonly().nullable().describe('the coordinator: who has a place in the federation, connected or not'),
    training: training.nullable(),
    generation: generation.nullable(),
    route: route.nullable().describe('a client: the servers that would carry its next text'),
    verification: verification.nullable().describe('a client: what its checks of servers came to'),
    http: z.object({
      url: z.string().describe('the base URL of the OpenAI-compatible API'),
      tokenFile: z.string().describe('the file that holds the bearer token')
    }).optional().describe('present where this daemon serves HTTP'),
    since: isoTime.describe('when the daemon started: ISO 8601')
  })
})
