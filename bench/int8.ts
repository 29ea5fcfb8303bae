/**
 * What int8 products bring and cost beside fp32: time and processor seconds of a training step and of a decode step, with one product
 * beside them as the floor, and the perplexity of a real chat model on texts of its kind. Run: node bench/int8.ts [turns, 9] [texts, 24]
 */
import '../src/node/process/v8-flags.ts'
import { modelOf } from '../src/model/families/index.ts'
import { CachedClientModel } from '../src/model/generation/cached-client-model.ts'
import { Graph } from '../src/model/graph/graph.ts'
import { program } from '../src/model/graph/program.ts'
import { columnSteps } from '../src/model/layers/int8-range.ts'
import { formatProgram, weightProduct, type KeptFormat } from '../src/model/layers/weight-format.ts'
import { SAMPLE_TEXTS } from '../src/model/privacy/sample-text.ts'
import type { AnyTensor, Device } from '../src/model/runtime/device.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { loadClientModel } from '../src/model/training/client-model.ts'
import { LocalTrainer } from '../src/model/training/local-trainer.ts'
import { Optimizer } from '../src/model/training/optimizer.ts'
import { Parameters } from '../src/model/training/parameters.ts'
import { restartWithAllocatorSettings } from '../src/node/process/allocator.ts'
import { float32 } from '../src/tensor.ts'
import { hasData } from '../test/helpers/data.ts'
import { chatModel, lessonTexts } from './support/chat-model.ts'
import { median, printTable, spread } from './support/print.ts'
import { randomBatches } from './support/random-batch.ts'
import { randomSource } from './support/random-source.ts'
import { measureLosses } from './support/weight-quality.ts'

const THREADS = 2
/** A training step in int8 must be so many times as fast as in fp32, on a processor with VNNI. */
const SPEED_BAR = 1.6
/** The most that int8 products may add to a perplexity. */
const PERPLEXITY_BAR = 0.01
const COMPUTES = ['fp32', 'int8'] as const
const DECODE_STEPS_PER_TURN = 16
const PROMPT = Array.from({ length: 32 }, (_, i) => i + 3)
const VOCABULARY = 4096
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: ['q_proj', 'v_proj'] }
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }

interface Size {
  readonly hidden: number
  readonly inner: number
  readonly blocks: number
  readonly heads: number
  readonly sequences: number
  readonly tokens: number
}

const SIZES: readonly Size[] = [
  { hidden: 512, inner: 1376, blocks: 8, heads: 8, sequences: 4, tokens: 256 },
  { hidden: 2048, inner: 5632, blocks: 2, heads: 16, sequences: 2, tokens: 256 }
]

/** Milliseconds of the clock and of the processor, of each time. */
interface Times {
  readonly ms: number[]
  readonly cpuMs: number[]
}

/** One kind of work, in one arithmetic. */
interface Work {
  readonly times: Times
  readonly run: () => Promise<unknown>
  readonly close?: () => Promise<unknown>
}

async function timed ({ times, run }: Work, repeats: number): Promise<void> {
  for (let i = 0; i < repeats; i++) {
    const [start, cpu] = [performance.now(), process.cpuUsage()]
    await run()
    const { user, system } = process.cpuUsage(cpu)
    times.ms.push(performance.now() - start)
    times.cpuMs.push((user + system) / 1000)
  }
}

const work = (run: Work['run']): Work => ({ times: { ms: [], cpuMs: [] }, run })

/** Training and decode steps of a model of random weights. */
async function steps (device: Device, { hidden, inner, blocks, heads, sequences, tokens }: Size): Promise<{ train: Work, decode: Work }> {
  const model = modelOf({
    architectures: ['LlamaForCausalLM'],
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: blocks,
    num_attention_heads: heads,
    num_key_value_heads: heads,
    vocab_size: VOCABULARY,
    max_position_embeddings: 512,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    hidden_act: 'silu',
    tie_word_embeddings: true
  })
  const partition = { inputBlocks: 0, outputBlocks: blocks }
  const ends = await loadClientModel(device, model, randomSource(model), partition, ADAPTERS)
  const trainer = new LocalTrainer(device, ends, await Optimizer.open(device, ADAMW), await Parameters.create(device, ends.weights.trained))
  const sequence = await CachedClientModel.create(ends.weights, partition, model.maxPositions)
  await sequence.logits(await sequence.embed(PROMPT), PROMPT.length)
  const [ids] = randomBatches(1, { sequences, tokens, vocabulary: VOCABULARY }, 'int8') as [number[][]]
  return {
    train: work(async () => await trainer.step([{ ids, targets: ids }], { learningRate: 1e-4 })),
    decode: work(async () => await sequence.logits(await sequence.embed([5]), 1))
  }
}

/** One product of so many rows with a matrix [inner, hidden]; fixed in its program as generation has it, or an input as in training. */
async function product (device: Device, { hidden, inner }: Size, rows: number, isFixed: boolean): Promise<Work> {
  const format: KeptFormat = device.compute === 'int8' ? 'int8-products' : 'fp32'
  const matrix = float32([inner, hidden], Float32Array.from({ length: inner * hidden }, (_, i) => Math.sin(i * i)))
  let kept: Record<string, AnyTensor> = { weight: await device.upload(matrix) }
  if (format !== 'fp32')
    kept = await (await device.compile(formatProgram(matrix, format, await columnSteps(device)))).run({ matrix }, { keep: 'all' })
  const graph = new Graph()
  graph.output('y', weightProduct(graph.input('x', 'float32', [rows, hidden]), { name: 'weight', shape: matrix.shape }, format))
  const built = program('product', graph)
  const used = Object.fromEntries(built.inputs.filter(({ name }) => name !== 'x').map(({ name }) => [name, kept[name]!]))
  const executable = await device.compile(built, { constants: isFixed ? used : {} })
  const x = await device.upload(float32([rows, hidden], Float32Array.from({ length: rows * hidden }, (_, i) => Math.cos(i * i))))
  return work(async () => {
    const { y } = await executable.run({ x, ...isFixed ? {} : used }, { keep: 'all' })
    device.free(y as never)
  })
}

async function measureSpeed (size: Size, turns: number): Promise<boolean> {
  const devices = await Promise.all(COMPUTES.map(async (compute) => await openDevice('cpu', { threads: THREADS, compute })))
  const made: Array<Record<string, Work>> = []
  for (const device of devices) {
    made.push({
      ...await steps(device, size),
      'product of the training step': await product(device, size, size.sequences * size.tokens, false),
      'product of the decode step': await product(device, size, 1, true)
    })
  }
  const kinds = Object.keys(made[0]!)
  for (const kind of kinds) {
    const repeats = kind.includes('decode') ? DECODE_STEPS_PER_TURN : 1
    for (const all of made) {
      await timed(all[kind]!, repeats)
      all[kind]!.times.ms.length = all[kind]!.times.cpuMs.length = 0
    }
    for (let turn = 0; turn < turns; turn++) for (const all of made) await timed(all[kind]!, repeats)
  }
  console.log(`\nhidden ${size.hidden}, ${size.blocks} blocks, ${THREADS} threads; a training step of ${size.sequences} x ${size.tokens} tokens; ms of the clock and of the processor: median [least-most]`)
  const rows = kinds.map((kind) => {
    const [plain, int8] = made.map((all) => all[kind]!.times) as [Times, Times]
    const ratio = median(plain.ms) / median(int8.ms)
    return {
      ratio,
      row: [
        kind,
        spread(plain.ms, 2),
        spread(int8.ms, 2),
        ratio.toFixed(2),
        median(plain.cpuMs).toFixed(1),
        median(int8.cpuMs).toFixed(1),
        (median(plain.cpuMs) / median(int8.cpuMs)).toFixed(2)
      ]
    }
  })
  printTable(['', 'fp32', 'int8', 'times as fast', 'fp32, CPU ms', 'int8, CPU ms', 'of it'], rows.map(({ row }) => row))
  for (const device of devices) await device.close()
  return rows[0]!.ratio >= SPEED_BAR
}

async function measurePerplexity (texts: number): Promise<boolean> {
  const model = chatModel()
  const tokenizer = await loadTokenizer(model)
  const kinds: Array<[name: string, texts: readonly string[]]> = [['sample texts', SAMPLE_TEXTS]]
  if (hasData('dialogsum')) kinds.push(['dialogues', await lessonTexts(texts)])
  let isWithin = true
  const rows: string[][] = []
  for (const [name, all] of kinds) {
    const sequences = all.map((text) => tokenizer.encode(text))
    const perplexities: Array<readonly [training: number, generation: number]> = []
    for (const compute of COMPUTES) {
      const device = await openDevice('cpu', { threads: THREADS, compute })
      const { training, generation } = await measureLosses(device, model, sequences)
      perplexities.push([Math.exp(training), Math.exp(generation)])
      await device.close()
    }
    const [plain, int8] = perplexities as [readonly [number, number], readonly [number, number]]
    const added = int8.map((value, i) => value / plain[i]! - 1)
    isWithin &&= added.every((share) => share <= PERPLEXITY_BAR)
    rows.push([
      name,
      String(sequences.reduce((sum, { length }) => sum + length - 1, 0)),
      ...plain.map((value) => value.toFixed(3)),
      ...int8.map((value) => value.toFixed(3)),
      ...added.map((share) => `${(share * 100).toFixed(2)} %`)
    ])
  }
  console.log(`\nperplexity of ${model}, as training and as generation compute it`)
  printTable(['', 'tokens', 'fp32', 'generating', 'int8', 'generating', 'added', 'generating'], rows)
  console.log(`bar: at most ${PERPLEXITY_BAR * 100} % more`)
  return isWithin
}

restartWithAllocatorSettings()
const [turns, texts] = [Number(process.argv[2] ?? 9), Number(process.argv[3] ?? 24)]
const isFast: boolean[] = []
if (turns > 0) for (const size of SIZES) isFast.push(await measureSpeed(size, turns))
if (turns > 0) console.log(`bar: a training step at least ${SPEED_BAR} times as fast`)
const isClose = texts === 0 || await measurePerplexity(texts)
if (!isClose || isFast.includes(false)) process.exitCode = 1
