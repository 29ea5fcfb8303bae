/**
 * What the formats of frozen weights cost and bring: memory, a decode step and a training step of wide blocks, and the loss of real models
 * before and after LoRA training. Run: node bench/weights.ts [turns, 9] [rounds, 60]
 */
import '../src/node/process/v8-flags.ts'
import { join } from 'node:path'
import { makeClinics } from '../src/cli/demo/corpus.ts'
import { modelOf } from '../src/model/families/index.ts'
import { CachedClientModel } from '../src/model/generation/cached-client-model.ts'
import { weightFormats, type WeightFormat } from '../src/model/layers/weight-format.ts'
import type { Device } from '../src/model/runtime/device.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { loadClientModel } from '../src/model/training/client-model.ts'
import { LocalTrainer } from '../src/model/training/local-trainer.ts'
import { Optimizer } from '../src/model/training/optimizer.ts'
import { Parameters } from '../src/model/training/parameters.ts'
import { restartWithAllocatorSettings } from '../src/node/process/allocator.ts'
import { dataPath, hasData } from '../test/helpers/data.ts'
import { fastest, median, printTable } from './support/print.ts'
import { randomBatches } from './support/random-batch.ts'
import { randomSource } from './support/random-source.ts'
import { splitShakespeare } from './support/shakespeare.ts'
import { measureQuality, type Subject } from './support/weight-quality.ts'

const THREADS = 2
/** A decode step with int4 weights must be so many times as fast as one with fp32 weights. */
const BAR = 2
const WIDE = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 2048,
  intermediate_size: 5632,
  num_hidden_layers: 2,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  vocab_size: 4096,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  hidden_act: 'silu',
  tie_word_embeddings: true
}
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: ['q_proj', 'v_proj'] }
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
const PROMPT = Array.from({ length: 32 }, (_, i) => i + 3)
const DECODE_STEPS_PER_TURN = 16
const BATCH = { sequences: 2, tokens: 256, vocabulary: WIDE.vocab_size }
const DEMO_MODEL = join(import.meta.dirname, '../src/cli/demo/model')
const MIB = 2 ** 20

interface Wide {
  readonly format: WeightFormat
  readonly device: Device
  readonly trainer: LocalTrainer
  readonly sequence: CachedClientModel
  /** Bytes held with weights to train, and with what generation holds besides. */
  readonly heldBytes: { readonly training: number, readonly generation: number }
  readonly decodeMs: number[]
  readonly trainMs: number[]
}

async function openWide (format: WeightFormat): Promise<Wide> {
  const device = await openDevice('cpu', { threads: THREADS })
  const model = modelOf(WIDE)
  const ends = await loadClientModel(device, model, randomSource(model), { inputBlocks: 0, outputBlocks: model.layers }, ADAPTERS, {
    format
  })
  const training = (await device.memory()).heldBytes
  const trainer = new LocalTrainer(device, ends, await Optimizer.open(device, ADAMW), await Parameters.create(device, ends.weights.trained))
  const sequence = await CachedClientModel.create(ends.weights, { inputBlocks: 0, outputBlocks: model.layers }, model.maxPositions)
  const before = (await device.memory()).heldBytes
  await sequence.logits(await sequence.embed(PROMPT), PROMPT.length)
  const generation = training + (await device.memory()).heldBytes - before
  return { format, device, trainer, sequence, heldBytes: { training, generation }, decodeMs: [], trainMs: [] }
}

async function timed (into: number[], work: () => Promise<unknown>): Promise<void> {
  const start = performance.now()
  await work()
  into.push(performance.now() - start)
}

async function measureSpeed (turns: number): Promise<void> {
  const [batch] = randomBatches(1, BATCH, 'weights')
  const ids = batch as number[][]
  const all: Wide[] = []
  for (const format of weightFormats) all.push(await openWide(format))
  const decode = async ({ sequence, decodeMs }: Wide): Promise<void> => {
    for (let step = 0; step < DECODE_STEPS_PER_TURN; step++)
      await timed(decodeMs, async () =>
        await sequence.logits(await sequence.embed([step + 1]), 1))
  }
  const train = async ({ trainer, trainMs }: Wide): Promise<void> => {
    await timed(trainMs, async () => await trainer.step([{ ids, targets: ids }], { learningRate: 1e-4 }))
  }
  for (const work of [decode, train]) {
    for (const wide of all) await work(wide)
    for (const { decodeMs, trainMs } of all)
      [decodeMs, trainMs].forEach((times) => times.splice(0, work === decode ? DECODE_STEPS_PER_TURN : 1))
    for (let turn = 0; turn < turns; turn++) for (const wide of all) await work(wide)
  }
  const [plain] = all as [Wide]
  console.log(
    `hidden ${WIDE.hidden_size}, ${WIDE.num_hidden_layers} blocks, ${THREADS} threads; a training step of ${BATCH.sequences} x ${BATCH.tokens} tokens; ms: median (fastest tenth)`
  )
  printTable(
    ['format', 'MiB, training', 'and generating', 'decode step, ms', 'times fp32', 'training step, ms', 'of fp32'],
    all.map(({ format, heldBytes, decodeMs, trainMs }) => [
      format,
      (heldBytes.training / MIB).toFixed(0),
      (heldBytes.generation / MIB).toFixed(0),
      `${median(decodeMs).toFixed(2)} (${fastest(decodeMs).toFixed(2)})`,
      (median(plain.decodeMs) / median(decodeMs)).toFixed(2),
      `${median(trainMs).toFixed(0)} (${fastest(trainMs).toFixed(0)})`,
      (median(trainMs) / median(plain.trainMs)).toFixed(2)
    ])
  )
  const ratio = median(plain.decodeMs) / median((all.at(-1) as Wide).decodeMs)
  console.log(`a decode step with int4 weights is ${ratio.toFixed(2)} times as fast as with fp32; bar: at least ${BAR}`)
  for (const { device } of all) await device.close()
  if (!(ratio >= BAR)) process.exitCode = 1
}

async function subjects (rounds: number): Promise<Subject[]> {
  const tokenizer = await loadTokenizer(DEMO_MODEL)
  const records = makeClinics('weights').flatMap((clinic) => clinic.records).map((record) => tokenizer.encode(record))
  const [trained, heldOut] = [0, 1].map((parity) => records.filter((_, i) => i % 2 === parity)) as [number[][], number[][]]
  const demo: Subject = {
    name: "the demo's model, clinics' records",
    model: DEMO_MODEL,
    heldOut,
    rounds: Array.from(
      { length: rounds },
      (_, round) => Array.from({ length: 12 }, (_, i) => trained[(round * 12 + i) % trained.length] as number[])
    )
  }
  if (!hasData('stories260K-hf') || !hasData('tinyshakespeare')) return [demo]
  const stories = dataPath('stories260K-hf')
  const split = await splitShakespeare(dataPath('tinyshakespeare', 'input.txt'), await loadTokenizer(stories), {
    clients: 1,
    rounds,
    sequences: 12,
    tokens: 64,
    heldOutSequences: 64
  })
  return [demo, { name: 'stories260K, tiny Shakespeare', model: stories, heldOut: split.heldOut, rounds: split.clients[0]?.rounds ?? [] }]
}

async function measureLosses (rounds: number): Promise<void> {
  const device = await openDevice('cpu', { threads: THREADS })
  for (const subject of await subjects(rounds)) {
    const rows: string[][] = []
    for (const format of weightFormats) {
      const { before, after } = await measureQuality(device, subject, format)
      rows.push([format, ...[before.training, before.generation, after.training, after.generation].map((loss) => loss.toFixed(4))])
    }
    console.log(
      `\n${subject.name}: loss on held-out text, in float32 arithmetic and as generation computes, before and after ${rounds} rounds of LoRA`
    )
    printTable(['format', 'before', 'generating', 'after', 'generating'], rows)
  }
  await device.close()
}

restartWithAllocatorSettings()
await measureSpeed(Number(process.argv[2] ?? 9))
await measureLosses(Number(process.argv[3] ?? 60))
