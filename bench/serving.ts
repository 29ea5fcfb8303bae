/**
 * What a server makes of many clients' texts: hidden states that were released before are sent again, so that nothing but the server works.
 * Tokens a second of 1, 4, 8 and 32 sequences beside what the memory's bandwidth and the processor's products allow; what a prompt of 4,096
 * tokens does to those who decode; the share of seven clients with one text beside one with fifty.
 * Run: node bench/serving.ts [512 | 2048-fp32 | 2048-int4 | prompt | shares | all] [seconds a figure, 4]
 */
import '../src/node/process/v8-flags.ts'
import { blockWeights, modelOf, type Model } from '../src/model/families/index.ts'
import { CachedSpan } from '../src/model/generation/cached-span.ts'
import { Graph } from '../src/model/graph/graph.ts'
import { reduceSum } from '../src/model/graph/operators/index.ts'
import { program } from '../src/model/graph/program.ts'
import { formatProgram, isQuantized, weightProduct, type WeightFormat } from '../src/model/layers/weight-format.ts'
import { ModelWeights, type WeightSource } from '../src/model/layers/weights.ts'
import { Boundary } from '../src/model/privacy/boundary.ts'
import type { Device, DeviceTensor } from '../src/model/runtime/device.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { restartWithAllocatorSettings } from '../src/node/process/allocator.ts'
import { GenerationEngine, type EngineSequence } from '../src/roles/server/generation/engine.ts'
import { elementCount, float32, type Tensor } from '../src/tensor.ts'
import { fastest, median, printTable } from './support/print.ts'

const THREADS = 2
const SEQUENCES = [1, 4, 8, 32]
/** Of hidden 2048 in fp32: tokens a second of so many sequences over those of one. */
const BARS: Readonly<Record<number, number>> = { 8: 5, 32: 10 }
/** Tokens a second over what bandwidth and products allow. */
const LIMIT_BAR = 0.6
/** Runs that a token may wait for, its own included, while a prompt comes. */
const DELAY_BAR = 3
/** What the seven keep of the server beside the eighth. */
const SHARE_BAR = 6 / 8
const PROMPT_TOKENS = 64
const CAPACITY = 1024
const LONG_PROMPT = 4096
const CACHE_BYTES = 2 ** 33
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: ['q_proj', 'v_proj'] }

interface Size {
  readonly hidden: number
  readonly intermediate: number
  readonly heads: number
  readonly blocks: number
}

const SMALL: Size = { hidden: 512, intermediate: 1376, heads: 8, blocks: 6 }
const WIDE: Size = { hidden: 2048, intermediate: 5632, heads: 16, blocks: 4 }

/** Values between -0.03 and 0.03 that repeat after a while: times do not depend on them. */
const PATTERN = Float32Array.from({ length: 100_003 }, (_, i) => (i * 7919 % 100_003 / 100_003 - 0.5) * 0.06)

function modelOfSize ({ hidden, intermediate, heads, blocks }: Size): Model {
  return modelOf({
    architectures: ['LlamaForCausalLM'],
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: blocks,
    num_attention_heads: heads,
    num_key_value_heads: heads,
    vocab_size: 1024,
    max_position_embeddings: LONG_PROMPT + CAPACITY,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    hidden_act: 'silu',
    tie_word_embeddings: true
  })
}

function patternSource (model: Model): WeightSource {
  const shapes = new Map(blockWeights(model).map(({ name, shape }) => [name, shape]))
  return {
    read: async (name) => {
      const shape = shapes.get([...shapes.keys()].find((own) => name.endsWith(`.${own}`))!)!
      const values = Float32Array.from({ length: elementCount(shape) }, (_, i) => shape.length === 1 ? 1 : PATTERN[i % PATTERN.length]!)
      return await Promise.resolve(float32(shape, values))
    }
  }
}

/** A server's engine, and what clients released. */
interface Server {
  readonly device: Device
  readonly engine: GenerationEngine
  readonly model: Model
  readonly weights: ModelWeights
  readonly format: WeightFormat
  /** Returns hidden states of so many tokens, as a client's boundary released them. */
  readonly released: (tokens: number) => readonly Tensor[]
}

async function startServer (size: Size, format: WeightFormat): Promise<Server> {
  const device = await openDevice('cpu', { threads: THREADS })
  const model = modelOfSize(size)
  const weights = new ModelWeights(device, model, ADAPTERS, format)
  await weights.loadBlocks(patternSource(model), { first: 0, end: size.blocks })
  const boundary = new Boundary(device, { hidden: size.hidden, rounding: 'fp16' })
  const recorded = new Map<number, readonly Tensor[]>()
  for (const tokens of [1, PROMPT_TOKENS, LONG_PROMPT]) {
    const rows = float32([tokens, size.hidden], Float32Array.from({ length: tokens * size.hidden }, (_, i) => Math.sin(i * i % 1009)))
    recorded.set(tokens, (await boundary.protect(rows, { clip: null, noise: 0 })).tensors)
  }
  const engine = new GenerationEngine({ device, model, blocks: new CachedSpan(weights), boundary, cacheBytes: CACHE_BYTES })
  return { device, engine, model, weights, format, released: (tokens) => recorded.get(tokens)! }
}

let opened = 0

/** One recorded client's sequence: its prompt is there, and every further answer is followed by the next token at once. */
async function openText ({ engine, model, released }: Server, client: string, capacity = CAPACITY): Promise<EngineSequence> {
  const sequence = await engine.open(`text ${opened++}`, client, { first: 0, end: model.layers }, capacity)
  await sequence.forward({ tensors: released(PROMPT_TOKENS), context: undefined })
  return sequence
}

/** Decodes until it is over; counts tokens from `from` on. Resolves with the tokens, and the milliseconds of each. */
async function decode (
  { released }: Server,
  sequence: EngineSequence,
  until: () => boolean,
  onToken: (ms: number) => void
): Promise<void> {
  while (!until()) {
    if (sequence.length === sequence.capacity) sequence.rewind(PROMPT_TOKENS)
    const startedAtMs = performance.now()
    await sequence.forward({ tensors: released(1), context: undefined })
    onToken(performance.now() - startedAtMs)
  }
}

/** Tokens a second of these sequences together, over some seconds after some that nobody counts. */
async function throughput (server: Server, sequences: readonly EngineSequence[], seconds: number): Promise<number> {
  const fromMs = performance.now() + 1000 * Math.min(1, seconds / 4)
  const untilMs = fromMs + 1000 * seconds
  let tokens = 0
  await Promise.all(sequences.map(async (sequence) => {
    await decode(server, sequence, () => performance.now() > untilMs, () => {
      const nowMs = performance.now()
      if (nowMs > fromMs && nowMs <= untilMs) tokens++
    })
  }))
  return tokens / seconds
}

/** What the machine can do: bytes a second that it reads, and seconds that a row's product with one element of a matrix takes. */
interface Limits {
  readonly bytesPerSecond: number
  readonly secondsPerElement: number
}

async function measureLimits ({ device, model, format }: Server): Promise<Limits> {
  const times = async (work: () => Promise<unknown>): Promise<number> => {
    const ms: number[] = []
    for (let turn = 0; turn < 7; turn++) {
      const start = performance.now()
      await work()
      ms.push(performance.now() - start)
    }
    return fastest(ms) / 1000
  }
  const [rows, columns] = [8192, 16_384]
  const graph = new Graph()
  graph.output('sums', reduceSum(graph.input('x', 'float32', [rows, columns]), [1]))
  const reading = await device.compile(program('reading', graph))
  const x = await device.zeros('float32', [rows, columns])
  const readSeconds = await times(async () => await reading.run({ x }))
  device.free(x)
  await reading.close()

  const batch = 512
  const matrices = blockWeights(model).filter(({ shape }) => shape.length === 2)
  const spec = matrices.reduce((a, b) => elementCount(b.shape) > elementCount(a.shape) ? b : a)
  const product = new Graph()
  product.output('y', reduceSum(weightProduct(
    product.input('rows', 'float32', [batch, spec.shape[1]!]), { ...spec, name: 'weight' }, format, isQuantized(format) ? 'int8' : undefined
  )))
  const values = Float32Array.from({ length: elementCount(spec.shape) }, (_, i) => PATTERN[i % PATTERN.length]!)
  const matrix = await device.upload(float32(spec.shape, values))
  const made = format === 'fp32'
    ? { weight: matrix }
    : await (await device.compile(formatProgram(spec, format))).run({ matrix }, { keep: 'all' }) as Record<string, DeviceTensor>
  const multiplying = await device.compile(program('product', product), { constants: made })
  const input = await device.upload(float32([batch, spec.shape[1]!], new Float32Array(batch * spec.shape[1]!).fill(0.01)))
  const productSeconds = await times(async () => await multiplying.run({ rows: input }))
  await multiplying.close()
  return {
    bytesPerSecond: 4 * rows * columns / readSeconds,
    secondsPerElement: productSeconds / (batch * elementCount(spec.shape))
  }
}

/** Bits of an element of a matrix, its share of a scale included. */
const BITS: Readonly<Record<WeightFormat, number>> = { fp32: 32, fp16: 16, int8: 9, int4: 5 }

async function measureThroughput (name: string, size: Size, format: WeightFormat, seconds: number): Promise<void> {
  const server = await startServer(size, format)
  const limits = await measureLimits(server)
  const matrices = blockWeights(server.model).filter(({ shape }) => shape.length === 2)
  const elements = size.blocks * matrices.reduce((sum, { shape }) => sum + elementCount(shape), 0)
  const rows: string[][] = []
  let alone = 0
  for (const count of SEQUENCES) {
    const sequences = await Promise.all(Array.from({ length: count }, async (_, i) => await openText(server, `client ${i}`)))
    const tokensPerSecond = await throughput(server, sequences, seconds)
    for (const sequence of sequences) await sequence.close()
    if (count === 1) alone = tokensPerSecond
    const readSeconds = elements * BITS[format] / 8 / limits.bytesPerSecond
    const productSeconds = count * elements * limits.secondsPerElement
    const limit = count / Math.max(readSeconds, productSeconds)
    const bar = name === '2048-fp32' ? BARS[count]?.toFixed(1) ?? '' : ''
    rows.push([
      `${count} sequences`, tokensPerSecond.toFixed(0), (tokensPerSecond / alone).toFixed(2), bar, (count / readSeconds).toFixed(0),
      (count / productSeconds).toFixed(0), (tokensPerSecond / limit).toFixed(2), LIMIT_BAR.toFixed(2)
    ])
  }
  const { runMs, runSequences } = server.engine.metrics.status
  console.log(`\n${name}: hidden ${size.hidden}, ${size.blocks} blocks, ${format}; the machine reads ${(limits.bytesPerSecond / 1e9).toFixed(1)} GB/s and multiplies ` +
    `${(2e-9 / limits.secondsPerElement).toFixed(0)} GFLOP/s; ${runMs.count} runs of ${runSequences.mean.toFixed(1)} sequences`)
  printTable(
    ['', 'tok/s', 'over one', 'bar, at least', 'limit: reading', 'limit: products', 'of the lower', 'bar, at least'],
    rows
  )
  await server.device.close()
}

/** A prompt of 4,096 tokens comes to 8 sequences that decode: the runs and the time that their tokens waited for. */
async function measurePrompt (): Promise<void> {
  const server = await startServer(SMALL, 'fp32')
  const { engine, model, released } = server
  const decoding = await Promise.all(Array.from({ length: 8 }, async (_, i) => await openText(server, `client ${i}`)))
  await throughput(server, decoding, 2)
  const prompt = await engine.open('prompt', 'other', { first: 0, end: model.layers }, LONG_PROMPT)
  const [before, during]: [number[], number[]] = [[], []]
  const delays: number[] = []
  let [ended, comes] = [false, false]
  const loops = decoding.map(async (sequence) => {
    let runs = engine.metrics.status.runTokens.count
    await decode(server, sequence, () => ended, (ms) => {
      const now = engine.metrics.status.runTokens.count
      if (comes) delays.push(now - runs)
      ;(comes ? during : before).push(ms)
      runs = now
    })
  })
  await new Promise((resolve) => setTimeout(resolve, 1000))
  comes = true
  const startedAtMs = performance.now()
  await prompt.forward({ tensors: released(LONG_PROMPT), context: undefined })
  const promptMs = performance.now() - startedAtMs
  ended = true
  await Promise.all(loops)
  const aloneMs = await (async () => {
    prompt.rewind(0)
    const start = performance.now()
    await prompt.forward({ tensors: released(LONG_PROMPT), context: undefined })
    return performance.now() - start
  })()
  console.log(`\nprompt: ${LONG_PROMPT} tokens beside 8 sequences that decode, hidden ${SMALL.hidden}, ${SMALL.blocks} blocks`)
  printTable(['', 'before', 'beside the prompt', 'bar, at most'], [
    ['runs from a token to the next, at most', '1', String(Math.max(...delays)), String(DELAY_BAR)],
    ['a token, ms: median', median(before).toFixed(1), median(during).toFixed(1), ''],
    ['a token, ms: at most', Math.max(...before).toFixed(1), Math.max(...during).toFixed(1), ''],
    ['the prompt, ms: alone, beside them', aloneMs.toFixed(0), promptMs.toFixed(0), '']
  ])
  await server.device.close()
}

/** Seven clients with one text each, without and with an eighth that has fifty. */
async function measureShares (seconds: number): Promise<void> {
  const server = await startServer(SMALL, 'fp32')
  const seven = await Promise.all(Array.from({ length: 7 }, async (_, i) => await openText(server, `modest ${i}`)))
  const fifty = await Promise.all(Array.from({ length: 50 }, async () => await openText(server, 'greedy', 256)))
  await throughput(server, [...seven, ...fifty], 1)
  const alone = await throughput(server, seven, seconds)
  let over = false
  let greedy = 0
  const others = fifty.map(async (sequence) => { await decode(server, sequence, () => over, () => { greedy++ }) })
  const beside = await throughput(server, seven, seconds)
  over = true
  const startedAtTokens = greedy
  await Promise.all(others)

  // Prompts alone: everybody always has some waiting.
  const clients = [...Array.from({ length: 7 }, (_, i) => `reader ${i}`), ...Array<string>(50).fill('hungry')]
  const readers = await Promise.all(clients.map(async (client, i) => ({
    client, sequence: await server.engine.open(`reader ${i}`, client, { first: 0, end: SMALL.blocks }, PROMPT_TOKENS)
  })))
  const served = new Map<string, number>()
  const untilMs = performance.now() + 1000 * seconds
  await Promise.all(readers.map(async ({ client, sequence }) => {
    while (performance.now() < untilMs) {
      sequence.rewind(0)
      await sequence.forward({ tensors: server.released(PROMPT_TOKENS), context: undefined })
      served.set(client, (served.get(client) ?? 0) + PROMPT_TOKENS)
    }
  }))
  const all = [...served.values()].reduce((sum, tokens) => sum + tokens, 0)
  const hungry = served.get('hungry') ?? 0
  console.log(`\nshares: seven clients with one text and one with fifty, hidden ${SMALL.hidden}, ${SMALL.blocks} blocks`)
  printTable(['', 'alone', 'beside fifty', 'share', 'bar, at least'], [
    ['seven that decode, tok/s', alone.toFixed(0), beside.toFixed(0), (beside / alone).toFixed(2), SHARE_BAR.toFixed(2)],
    ['the eighth meanwhile, tok/s', '', (startedAtTokens / (seconds * 1.25)).toFixed(0), '', ''],
    ['seven that read prompts, of all tokens', '', '', ((all - hungry) / all).toFixed(2), SHARE_BAR.toFixed(2)]
  ])
  await server.device.close()
}

const FIGURES: Readonly<Record<string, (seconds: number) => Promise<void>>> = {
  512: async (seconds) => { await measureThroughput('512', SMALL, 'fp32', seconds) },
  '2048-fp32': async (seconds) => { await measureThroughput('2048-fp32', WIDE, 'fp32', seconds) },
  '2048-int4': async (seconds) => { await measureThroughput('2048-int4', WIDE, 'int4', seconds) },
  prompt: async () => { await measurePrompt() },
  shares: async (seconds) => { await measureShares(seconds) }
}

restartWithAllocatorSettings()
const [which = 'all', seconds = '4'] = process.argv.slice(2)
if (which !== 'all' && FIGURES[which] === undefined) throw new Error(`there is no figure ${which}: ${Object.keys(FIGURES).join(', ')}`)
console.log(`Serving: released hidden states are sent again, so that only the server works; ${THREADS} threads, fp16 wire`)
for (const [name, measure] of Object.entries(FIGURES)) if (which === 'all' || which === name) await measure(Number(seconds))
