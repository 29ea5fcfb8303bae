/**
 * A LLaMA of 1.1 billion parameters (TinyLlama's shape, https://arxiv.org/abs/2401.02385, random weights in bfloat16) split over a
 * server's and a client's process, sealed, on loopback: how long it takes to load, to train and to generate, and the memory of both.
 * Run: node bench/billion.ts [rounds, 3] [--keep DIRECTORY, to make the model there, or to use the one that is there]
 */
import { access, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Federation } from './support/federation.ts'
import { residentMemory } from './support/memory.ts'
import { printTable, spread } from './support/print.ts'
import { writeRandomModel, type ModelSize } from './support/random-model.ts'

const SIZE: ModelSize = {
  hidden: 2048,
  blocks: 22,
  intermediate: 5632,
  heads: 32,
  kvHeads: 4,
  vocabulary: 32000,
  positions: 2048,
  untied: true
}
const THREADS = 2
const BATCH = { sequences: 2, maxTokens: 128 }
const PROMPT = [1, 10, 20, 30, 40, 50, 60, 70]
const TOKENS = 32
const BAR_GIB = 24

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`
const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`

async function modelIn (directory: string): Promise<string> {
  const model = join(directory, 'model')
  // The configuration is there before the weights are, which take their name when they are whole.
  const whole = await access(join(model, 'model.safetensors')).then(() => true, () => false)
  if (!whole) await writeRandomModel(model, SIZE, 'BF16')
  return model
}

async function measure (directory: string, model: string, rounds: number): Promise<void> {
  const plan = {
    model,
    wire: 'fp16',
    strategy: 'client-batch',
    loraTargets: ['q', 'v'],
    clients: 1,
    clientsPerProcess: 1,
    serverThreads: THREADS,
    clientThreads: THREADS
  } as const
  const federation = await Federation.start(directory, { ...plan, loraTargets: [...plan.loraTargets] })
  try {
    const processes = [{ name: 'server', pid: federation.server.pid }, ...federation.processes.map(({ pid }) => ({ name: 'client', pid }))]
    const rows: string[][] = []
    const record = async (after: string): Promise<void> => {
      const memory = await Promise.all(processes.map(async ({ pid }) => await residentMemory(pid)))
      const peaks = memory.reduce((sum, { peak }) => sum + peak, 0)
      rows.push([after, ...memory.flatMap(({ now, peak }) => [gib(now), gib(peak)]), gib(peaks)])
    }
    await record('loading')
    const ends = [performance.now()]
    await federation.train(rounds, BATCH, () => { ends.push(performance.now()) })
    const steps = ends.slice(1).map((end, index) => end - (ends[index] as number))
    await record('training')
    const { ids, tokensPerSecond } = await federation.generate(0, PROMPT, TOKENS)
    await record('generating')

    const { found, server, join: joining, clients } = federation.startMs
    printTable(['', ''], [
      ['founding: the model read and hashed', seconds(found)], ['server started: 20 blocks loaded', seconds(server)],
      ['joining: the ends fetched', seconds(joining)], ['client started: the ends loaded', seconds(clients)],
      [`a round of ${BATCH.sequences} x ${BATCH.maxTokens} tokens`, `${spread(steps.map((ms) => ms / 1000), 2)} s`],
      [`generation, ${ids.length} tokens`, `${tokensPerSecond.toFixed(2)} tokens/s`]
    ])
    console.log()
    printTable(['after', 'server', 'peak', 'client', 'peak', `peaks (bar ${BAR_GIB} GiB)`], rows)
  } finally {
    await federation.stop()
  }
}

const { values: { keep }, positionals: [rounds = '3'] } = parseArgs({ options: { keep: { type: 'string' } }, allowPositionals: true })
const directory = await mkdtemp(join(tmpdir(), 'midspan-billion-'))
try {
  console.log(`LLaMA of 1.1 billion parameters, cut as 1 | 20 | 1, LoRA r 8 on q and v, fp16 wire, ${THREADS} threads each`)
  await measure(directory, await modelIn(keep ?? directory), Number(rounds))
} finally {
  await rm(directory, { recursive: true, force: true })
}
