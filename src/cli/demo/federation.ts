import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { GivenParameters, ResultOf } from '../../api/operations.ts'
import { askDaemon, callDaemon } from '../daemon-client.ts'
import type { TrainRound } from '../views/train-view.ts'
import { question, type Clinic } from './corpus.ts'
import type { Recipe } from './local-model.ts'
import type { Processes } from './processes.ts'

/** The demo's own model: `pretrain.ts` makes it. */
export const modelDirectory = fileURLToPath(new URL('./model', import.meta.url))

const federationName = 'valley clinics'

/** Enough for one clinic's batch of a round, and for the longest record. */
const maxTokensPerClient = 1024

/** The longest record has 22 tokens. */
const maxTokens = 32

/** The founder serves the first half of the middle, and each of the others the second half. */
const founderBlocks = '1-3'
const workerBlocks = '3-5'
const workers = 2

/** Servers are known to the clinics within a second; a loaded machine may need many. */
const knownTimeoutMs = 60_000
const lookMs = 100

/** The clinics cut the model at different blocks: they share rounds all the same. */
const partitions = [{ inputBlocks: 1, outputBlocks: 1 }, { inputBlocks: 2, outputBlocks: 1 }, { inputBlocks: 1, outputBlocks: 2 }] as const

/** An answer is one remedy and a full stop. */
const maxAnswerTokens = 6

/** Each process computes with one thread: four of them share the machine. */
const threads = ['--threads', '1'] as const

export interface Noise {
  readonly hidden: number
  readonly gradient: number
}

/** A clinic that has joined. */
export interface Member {
  readonly clinic: Clinic
  readonly home: string
  /** Its private records. */
  readonly file: string
  readonly fileBytes: number
  readonly peerId: string
  readonly partition: { readonly inputBlocks: number, readonly outputBlocks: number }
}

/** A server that joined the founder's. */
export interface DemoWorker {
  readonly peerId: string
  /** Kills its process. */
  readonly kill: () => void
}

export interface DemoFederation {
  readonly serverHome: string
  readonly server: ResultOf<'status'>
  readonly servers: ResultOf<'servers'>
  readonly workers: readonly DemoWorker[]
  readonly members: readonly Member[]
}

/** Founds a federation in `directory`, starts its servers, and lets every clinic join and start, each in a process of its own. */
export async function startFederation (
  processes: Processes,
  directory: string,
  clinics: readonly Clinic[],
  recipe: Recipe,
  noise: Noise,
  signal: AbortSignal
): Promise<DemoFederation> {
  const serverHome = join(directory, 'server')
  await processes.run(['init', '--home', serverHome, ...founding(recipe, noise, clinics.length)], signal)
  await processes.startDaemon(['--home', serverHome, '--listen', '/ip4/127.0.0.1/tcp/0', ...threads], signal)
  const [joinedWorkers, members] = await Promise.all([
    Promise.all(Array.from({ length: workers }, async (_, i) => await addWorker(processes, directory, serverHome, i, signal))),
    Promise.all(
      clinics.map(async (clinic, i) => await enrol(processes, directory, serverHome, clinic, partitions[i % partitions.length]!, signal))
    )
  ])
  for (const { home } of members) await allConnected(home, joinedWorkers, signal)
  return {
    serverHome,
    server: await askDaemon(serverHome, 'status', {}, signal),
    servers: await askDaemon(serverHome, 'servers', {}, signal),
    workers: joinedWorkers,
    members
  }
}

/** Lets one more server join, with the second half of the middle. It fetches its blocks from the founder. */
async function addWorker (
  processes: Processes,
  directory: string,
  serverHome: string,
  index: number,
  signal: AbortSignal
): Promise<DemoWorker> {
  const home = join(directory, `worker-${index + 1}`)
  const { invite } = await askDaemon(serverHome, 'invite', { role: 'server', expiresMs: 3_600_000, uses: 1 }, signal)
  const { peerId } = await processes.run<{ peerId: string }>(['join', invite, '--home', home, '--blocks', workerBlocks], signal)
  const kill = await processes.startDaemon(['--home', home, '--listen', '/ip4/127.0.0.1/tcp/0', ...threads], signal)
  return { peerId, kill }
}

/** Waits until a clinic is connected to all of these servers. */
async function allConnected (home: string, expected: readonly DemoWorker[], signal: AbortSignal): Promise<void> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(knownTimeoutMs)])
  for (;;) {
    const { servers } = await askDaemon(home, 'servers', {}, limit)
    if (expected.every(({ peerId }) => servers.some((server) => server.peerId === peerId && server.connected))) return
    await delay(lookMs, undefined, { signal: limit })
  }
}

function founding ({ adapters, optimizer, learningRate, schedule, maxGradientNorm }: Recipe, noise: Noise, clients: number): string[] {
  return Object.entries({
    model: modelDirectory,
    name: federationName,
    blocks: founderBlocks,
    'input-blocks': '1..2',
    'output-blocks': '1..2',
    noise: noise.hidden,
    'gradient-noise': noise.gradient,
    'lora-r': adapters.r,
    'lora-alpha': adapters.alpha,
    'lora-targets': adapters.targets.map((target) => target.replace('_proj', '')).join(),
    seed: adapters.seed,
    'learning-rate': learningRate,
    beta1: optimizer.beta1,
    beta2: optimizer.beta2,
    epsilon: optimizer.epsilon,
    'weight-decay': optimizer.weightDecay,
    schedule: schedule.name,
    'warmup-rounds': schedule.warmupRounds,
    'total-rounds': schedule.totalRounds,
    'max-gradient-norm': maxGradientNorm,
    'min-clients': clients,
    'max-tokens-per-client': maxTokensPerClient
  }).flatMap(([name, value]) => [`--${name}`, String(value)])
}

async function enrol (
  processes: Processes,
  directory: string,
  serverHome: string,
  clinic: Clinic,
  partition: Member['partition'],
  signal: AbortSignal
): Promise<Member> {
  const home = join(directory, clinic.name.toLowerCase())
  const file = join(directory, `${clinic.name.toLowerCase()}.jsonl`)
  await writeFile(file, clinic.records.map((text) => `${JSON.stringify({ text })}\n`).join(''), { mode: 0o600 })
  const { invite } = await askDaemon(serverHome, 'invite', { role: 'client', expiresMs: 3_600_000, uses: 1 }, signal)
  const joined = await processes.run<{ peerId: string }>(
    ['join', invite, '--home', home, '--input-blocks', String(partition.inputBlocks), '--output-blocks', String(partition.outputBlocks)],
    signal
  )
  await processes.startDaemon(['--home', home, ...threads], signal)
  return { clinic, home, file, fileBytes: (await stat(file)).size, peerId: joined.peerId, partition }
}

export interface Asked {
  readonly answers: readonly string[]
  readonly sentBytes: number
  readonly receivedBytes: number
}

/** Returns one clinic's answers to the questions about `ailments`: generated across the network, always the likeliest token. */
export async function ask ({ home }: Member, ailments: readonly string[], signal: AbortSignal): Promise<Asked> {
  const answers: string[] = []
  let [sentBytes, receivedBytes] = [0, 0]
  for (const ailment of ailments) {
    const done = await generate(home, { prompt: question(ailment), maxTokens: maxAnswerTokens, temperature: 0 }, signal)
    answers.push(done.text)
    sentBytes += done.sentBytes
    receivedBytes += done.receivedBytes
  }
  return { answers, sentBytes, receivedBytes }
}

/** Generates at one clinic. `onText` hears of every piece of the text. */
export async function generate (
  home: string,
  request: GivenParameters<'generate'>,
  signal: AbortSignal,
  onText: () => void = () => {}
): Promise<ResultOf<'generate'>> {
  let done: ResultOf<'generate'> | undefined
  for await (const event of callDaemon(home, 'generate', request, signal)) {
    if (event.type === 'text') onText()
    if (event.type === 'done') done = event
  }
  return done!
}

/** Trains all clinics at once, each on its own file. `onRound` hears of every round of every clinic. */
export async function trainTogether (
  members: readonly Member[],
  { rounds, sequences }: Recipe,
  onRound: (member: number, round: TrainRound) => void,
  signal: AbortSignal
): Promise<Array<ResultOf<'train'>>> {
  return await Promise.all(members.map(async ({ home, file }, member) => {
    let done: ResultOf<'train'> | undefined
    const request = { data: file, rounds, sequences, maxTokens, packing: 'padded', lossOn: 'all', seed: 0 } as const
    for await (const event of callDaemon(home, 'train', request, signal)) {
      if (event.type === 'round') onRound(member, event)
      if (event.type === 'done') done = event
    }
    return done!
  }))
}
