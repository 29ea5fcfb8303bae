import { defaulted, mandatoryRepeated, optional, repeated, toggle } from './option.ts'
import { choice, duration, fieldColumn, hostName, integer, number, onOff, path, size, text, withhold } from './values.ts'

/** Options that mean the same in several commands. */

export const json = toggle('Print JSON for programs instead of text for people')

export const timeout = defaulted(
  'DURATION',
  duration({ max: '24h' }),
  '2m',
  'How long to go on without anything from a server before giving up'
)

export const threads = optional('COUNT', integer({ min: 1, max: 1024 }), 'Threads that compute', "the machine's cores")

export const device = optional(
  'NAME',
  choice('auto', 'cpu', 'webgpu', 'cuda'),
  'What computes: auto, cpu, webgpu or cuda; auto takes a GPU that is faster than the CPU',
  'auto'
)

export const compute = optional(
  'TYPE',
  choice('fp32', 'fp16', 'int8'),
  "What products with the frozen weights of this peer's blocks are computed in: fp32; fp16, for GPUs; or int8, faster on CPUs, for another, close model. See docs/weights.md",
  'fp32'
)

export const residuals = {
  residuals: optional(
    'POLICY',
    choice('saved', 'recomputed', 'auto'),
    'Whether training keeps what its way back needs (saved), computes it again in less memory (recomputed), or measures both and keeps the faster (auto)',
    'saved'
  ),
  residualBytes: optional('SIZE', size, 'Memory that auto may use for what one pass keeps', 'no limit')
}

export const weights = optional(
  'FORMAT',
  choice('fp32', 'fp16', 'int8', 'int4'),
  "What the frozen weights of this peer's blocks are kept as: fp32, fp16, int8 or int4. Less memory and faster generation for another, close model; see docs/weights.md",
  'fp32'
)

export const httpHost = repeated(
  'NAME',
  hostName,
  'A name that requests may have for the HTTP server besides localhost and IP addresses',
  'none'
)

/** How tokens are chosen. */
export const sampling = {
  temperature: defaulted('NUMBER', number({ min: 0, max: 100 }), '0', '0 always takes the likeliest token; higher is more varied'),
  topK: optional('COUNT', integer({ min: 1 }), 'Choose among the K likeliest tokens', 'all'),
  topP: optional(
    'SHARE',
    number({ min: 0, max: 1, above: true }),
    'Choose among the likeliest tokens that have this probability together',
    '1'
  ),
  seed: optional('NUMBER', integer({ min: 0, max: 2 ** 32 - 1 }), 'The same seed gives the same text', 'a new one each time')
}

/** The data that training and evaluation read, and how. */
export const dataOptions = {
  data: mandatoryRepeated('PATH', path, 'A file or directory of JSONL, JSON, CSV, TSV, Parquet or plain text; see docs/data.md'),
  map: repeated('FIELD=COLUMN', fieldColumn, 'Read a field from a column of another name, such as completion=answer'),
  skipBadLines: toggle('Go on where more than half of the records cannot be used'),
  maxTokens: optional('COUNT', integer({ min: 2 }), 'Tokens of a sequence at most', "the charter's limit"),
  lossOn: defaulted(
    'WHAT',
    choice('completion', 'all'),
    'completion',
    'Tokens that the loss counts: completion, where the data tells it apart, or all'
  ),
  seed: optional('NUMBER', integer({ min: 0, max: 2 ** 32 - 1 }), 'Order of the records', '0')
}

export const task = optional(
  'TASK',
  text,
  'What the records are for: classify, multiple-choice, extract, qa, summarize, chat, or a YAML file; see docs/tasks.md'
)

/** Returns the columns by field as the daemon takes them; undefined where no column has another name. */
export function fieldMap (pairs: ReadonlyArray<readonly [string, string]>): Record<string, string> | undefined {
  return pairs.length === 0 ? undefined : Object.fromEntries(pairs)
}

/** Which words' states do not leave. */
export const withheldWords = optional(
  'RULES',
  withhold,
  'Words whose states do not leave: names, numbers, capitals, rare:SHARE (of all words of the data, such as rare:0.1%), or a FILE of words and /patterns/, a line each; several separated by commas. See docs/privacy.md'
)

/** Whether a client's residual stream stays with it. */
export const keepStream = optional(
  'on|off',
  onOff,
  'A client: keep the residual stream here, so that noise and clip reach only what the middle adds; the same in training, evaluation and generation. See docs/privacy.md',
  'on where there is noise or a clip'
)

/** Noise beyond this drowns any signal. */
export const NOISE_BOUNDS = { min: 0, max: 1000 } as const

export const clientNoise = {
  noise: optional(
    'SCALE',
    number(NOISE_BOUNDS),
    "Noise on the hidden states that leave: the expected norm of a row's noise over the clip norm",
    "the charter's floor"
  ),
  gradientNoise: optional('SCALE', number(NOISE_BOUNDS), 'The same for the gradients that leave', "the charter's floor")
}
