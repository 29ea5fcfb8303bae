import { z } from 'zod'
import { encodings } from '../../encoding.ts'
import { CHARTER_VERSION, MAX_BLOCKS, MAX_FILES, MAX_TENSORS, SECURE_CONTRIBUTORS } from './constants.ts'

/** Adapter seeds, names of tensors and files: longer ones have no use. */
const MAX_NAME_LENGTH = 256

/** Batches that a client brings to one round, at most: what a round has come to is lost with a server that dies in it. */
const MAX_ACCUMULATION_STEPS = 1024

/** The longest wait that a timer of Node.js can have, 24.8 days: a longer one would end at once. */
const MAX_TIMER_MS = 2 ** 31 - 1

const count = z.int().min(1)
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'is not a SHA-256 in lower-case hex')
const name = z.string().min(1).max(MAX_NAME_LENGTH)
const beta = z.number().min(0).lt(1)

/** An Ed25519 peer id in base58: the founder's public key is inside it. */
export const peerIdSchema = z.string().regex(/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/, 'is not an Ed25519 peer id')

/** Files go into a model directory: a plain name, so that no peer chooses where a file is written. */
const fileNameSchema = z.string().max(MAX_NAME_LENGTH).regex(/^[A-Za-z0-9_][A-Za-z0-9._-]*$/, 'is not a plain file name')

const tensorSchema = z.strictObject({
  /** The stored type, as safetensors names it. */
  dtype: z.enum(['F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I16', 'I8', 'U64', 'U32', 'U16', 'U8', 'BOOL', 'F8_E4M3', 'F8_E5M2']),
  shape: z.array(z.int().min(0)).max(8),
  bytes: z.int().min(0),
  sha256
})

const fileSchema = z.strictObject({ bytes: z.int().min(0), sha256 })

function bounded<Value extends z.ZodType> (key: z.ZodString, value: Value, most: number) {
  return z.record(key, value).refine((record) => Object.keys(record).length <= most, `has more than ${most} entries`)
}

const modelSchema = z.strictObject({
  family: z.string().regex(/^[a-z][a-z0-9_-]{0,31}$/, 'is not the name of a model family'),
  config: z.record(z.string().max(MAX_NAME_LENGTH), z.json()),
  blocks: count.max(MAX_BLOCKS),
  hidden: count.max(2 ** 20),
  tensors: bounded(name, tensorSchema, MAX_TENSORS),
  files: bounded(fileNameSchema, fileSchema, MAX_FILES)
})

const adaptersSchema = z.strictObject({
  r: count.max(4096),
  alpha: z.number().positive(),
  dropout: z.number().min(0).lt(1),
  /** Leaf names of modules, such as `q_proj`. */
  targets: z.array(z.string().regex(/^[a-z][a-z0-9_]{0,63}$/, 'is not the name of a module')).min(1).max(64)
    .refine((targets) => new Set(targets).size === targets.length, 'names a module twice'),
  rslora: z.boolean(),
  seed: z.string().regex(/^[0-9a-f]{1,128}$/, 'is not lower-case hex'),
  /** The tensors that training starts from, by PEFT's names; absent where they follow from the seed. */
  initial: bounded(name, tensorSchema, MAX_TENSORS).optional()
})

/** What of the model itself is trained, beside adapters. */
const weightsSchema = z.strictObject({
  /** Blocks that are trained whole, in place of adapters. */
  blocks: z.array(z.int().min(0).max(MAX_BLOCKS - 1)).max(MAX_BLOCKS).refine(
    (blocks) => new Set(blocks).size === blocks.length,
    'names a block twice'
  ),
  /** Biases of the other blocks, as PEFT's setting of this name. */
  bias: z.enum(['none', 'all', 'lora_only'])
})

const trainingSchema = z.strictObject({
  optimizer: z.strictObject({
    name: z.literal('adamw'),
    learningRate: z.number().positive(),
    beta1: beta,
    beta2: beta,
    epsilon: z.number().positive(),
    weightDecay: z.number().min(0)
  }),
  schedule: z.strictObject({ name: z.enum(['constant', 'linear', 'cosine']), warmupRounds: z.int().min(0), totalRounds: count }),
  maxGradientNorm: z.number().positive().nullable(),
  /** Whose gradients that norm is of, where ends are not shared: each party's own, or those of all together. */
  gradientNormScope: z.enum(['party', 'global']).default('party'),
  /** Passes of a round: the batches that each client brings to it, one after another. */
  gradientAccumulationSteps: count.max(MAX_ACCUMULATION_STEPS).default(1),
  maxTokensPerClient: count,
  roundDeadlineMs: count.max(MAX_TIMER_MS),
  minClients: count
})

const blocks = z.int().min(0).max(MAX_BLOCKS)
const rangeSchema = z.strictObject({ min: blocks, max: blocks }).refine(({ min, max }) => min <= max, 'has a minimum above its maximum')

/** Clip norms by cut: the number of the block before which rows leave the client's span. */
const clipsSchema = z.record(z.string().regex(/^(0|[1-9]\d{0,3})$/, 'is not a block number'), z.number().positive())

/** Noises that losses were measured with at one cut, at most. */
const MAX_NOISE_LOSSES = 64

/** What the founder measured by cut, on a sample of text: the model's loss with each noise, for clients to be told what theirs costs. */
const lossesSchema = z.record(
  z.string().regex(/^(0|[1-9]\d{0,3})$/, 'is not a block number'),
  z.array(z.strictObject({ noise: z.number().min(0), loss: z.number().min(0) })).max(MAX_NOISE_LOSSES)
)

const privacySchema = z.strictObject({
  noise: z.number().min(0),
  gradientNoise: z.number().min(0),
  /** Whether rows are clipped even where a client adds no noise to them; otherwise they then stay exact. */
  clipAlways: z.boolean(),
  clip: z.strictObject({ hidden: clipsSchema, gradient: clipsSchema }).nullable(),
  /** Absent in charters without a clip, and in those that were founded before losses were measured. */
  losses: lossesSchema.optional()
}).refine(({ clip, noise, gradientNoise }) => clip !== null || (noise === 0 && gradientNoise === 0), {
  error: 'noise is relative to the clip, and there is none', path: ['clip']
})

const aggregationSchema = z.discriminatedUnion('mode', [
  z.strictObject({ mode: z.literal('plain') }),
  z.strictObject({ mode: z.literal('secure'), minContributors: count.min(SECURE_CONTRIBUTORS.least).max(SECURE_CONTRIBUTORS.most) })
])

const limitsSchema = z.strictObject({
  maxSequenceTokens: count,
  maxClients: count,
  maxSessionsPerClient: count,
  cacheBytes: count
})

/**
 * What a federation agrees on, as its founder signs it. A field that a later release adds has a default here that means what federations
 * without the field have always done, so that their charters stay valid; their signatures and ids are those of the bytes as signed. A
 * change that an older release would compute differently raises `version` or the version of a protocol. docs/charter.md has the rules.
 */
export const charterSchema = z.strictObject({
  version: z.literal(CHARTER_VERSION),
  name: z.string().min(1).max(64).regex(
    /^[\p{L}\p{N}][\p{L}\p{N} ._-]*$/u,
    'has characters other than letters, digits, spaces, dots, dashes and underscores'
  ),
  founder: peerIdSchema,
  createdAt: z.iso.datetime(),
  protocols: z.record(z.string().regex(/^[a-z]{1,32}$/), z.string().regex(/^\d{1,4}\.\d{1,4}\.\d{1,4}$/)),
  model: modelSchema,
  adapters: adaptersSchema,
  weights: weightsSchema.default({ blocks: [], bias: 'none' }),
  training: trainingSchema,
  strategy: z.enum(['client-batch', 'sequential', 'server-hierarchical']),
  /** Rounds from one average of the servers' parameters to the next, where each server steps its own. */
  averageEvery: count.optional(),
  ends: z.discriminatedUnion('mode', [
    z.strictObject({ mode: z.literal('shared') }),
    z.strictObject({ mode: z.literal('average'), every: count }),
    z.strictObject({ mode: z.literal('personal') })
  ]),
  /** Whether clients hand in what they contribute of their own blocks as it is, or masked, so that the server learns the sum alone. */
  aggregation: aggregationSchema.default({ mode: 'plain' }),
  partitions: z.strictObject({ inputBlocks: rangeSchema, outputBlocks: rangeSchema }),
  wire: z.enum(encodings),
  privacy: privacySchema,
  admission: z.enum(['invite', 'allow-list', 'open']),
  limits: limitsSchema
}).superRefine((charter, context) => {
  const { model: { blocks }, weights, partitions: { inputBlocks, outputBlocks }, privacy: { clip } } = charter
  const refuse = (path: Array<string | number>, message: string): void => {
    context.addIssue({ code: 'custom', path, message })
  }
  if (inputBlocks.max + outputBlocks.max >= blocks)
    return refuse(['partitions'], `the ends may take all ${blocks} blocks and leave no middle`)
  if (weights.blocks.some((block) => block >= blocks))
    return refuse(['weights', 'blocks'], `names a block that the model's ${blocks} are without`)
  if (charter.strategy === 'sequential' && charter.ends.mode === 'average')
    refuse(['ends'], 'cannot be averaged where clients take turns: an average needs rounds that all of them are in')
  if ((charter.strategy === 'server-hierarchical') !== (charter.averageEvery !== undefined))
    refuse(['averageEvery'], 'belongs to the strategy server-hierarchical, and that strategy needs it')
  if (charter.strategy === 'server-hierarchical') {
    if (charter.ends.mode !== 'personal' && (inputBlocks.min !== inputBlocks.max || outputBlocks.min !== outputBlocks.max))
      refuse(['partitions'], 'have to be one cut where each server steps parameters of its own and clients do not keep theirs to themselves')
    if (charter.training.gradientNormScope === 'global')
      refuse(['training', 'gradientNormScope'], 'cannot be global where each server steps parameters of its own')
  }
  const unsummable = unsummableBecause({ ...charter, ...charter.training, ...charter.limits, inputBlocks, outputBlocks })
  if (unsummable !== undefined) refuse(['aggregation'], `is secure, and ${unsummable}`)
  if (clip === null) return
  for (let cut = inputBlocks.min; cut <= inputBlocks.max; cut++) {
    if (clip.hidden[cut] === undefined) refuse(['privacy', 'clip', 'hidden', String(cut)], 'is missing, and partitions cut there')
  }
  for (let cut = blocks - outputBlocks.max; cut <= blocks - outputBlocks.min; cut++) {
    if (clip.gradient[cut] === undefined) refuse(['privacy', 'clip', 'gradient', String(cut)], 'is missing, and partitions cut there')
  }
})

/** What of a federation's rounds a secure sum cannot be had with. */
export interface SummableRounds {
  readonly aggregation: z.infer<typeof aggregationSchema>
  readonly strategy: string
  readonly ends: { readonly mode: string }
  readonly gradientNormScope: string
  readonly inputBlocks: { readonly min: number, readonly max: number }
  readonly outputBlocks: { readonly min: number, readonly max: number }
  readonly maxClients: number
}

/** Returns why contributions cannot be summed securely, as a clause; undefined where they can, or are not. */
export function unsummableBecause (rounds: SummableRounds): string | undefined {
  const { aggregation, strategy, ends, gradientNormScope, inputBlocks, outputBlocks, maxClients } = rounds
  if (aggregation.mode === 'plain') return undefined
  if (ends.mode === 'personal') return 'with personal ends clients contribute nothing that could be summed'
  if (strategy !== 'client-batch') return `with the strategy ${strategy} there is no sum over all clients of a round`
  if (inputBlocks.min !== inputBlocks.max || outputBlocks.min !== outputBlocks.max)
    return 'clients may hold different blocks: what the only holder of a block adds would be no sum'
  if (ends.mode === 'average' && gradientNormScope === 'global') return 'with a global gradient norm each client tells the server the norm of its own'
  if (maxClients < aggregation.minContributors)
    return `a sum takes ${aggregation.minContributors} clients, and the federation has ${maxClients} at most`
  return undefined
}

/** A charter's body: plain JSON. */
export type Charter = z.infer<typeof charterSchema>

/** One client's cut of the model, in blocks; the middle is what is left. */
export interface Partition {
  readonly inputBlocks: number
  readonly outputBlocks: number
}
