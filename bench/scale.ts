/**
 * How far a federation scales: 1, 2, 4 and 8 servers of the same blocks with eight clients each, in training and in generation; then 64
 * servers with 512 clients. Devices are simulated: a run takes as long as its tokens and blocks take on a device of a stated speed, by a
 * timer, so that two cores show what many machines would. Nodes, sealing, protocols, rounds and the scheduler are real.
 * Run: node bench/scale.ts [client-batch | server-hierarchical | large | all] [servers, 1,2,4,8 or 64] [clients a server, 8]
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CreateOptions } from '../src/node/federation/create.ts'
import { restartWithAllocatorSettings } from '../src/node/process/allocator.ts'
import { printTable } from './support/print.ts'
import { writeRandomModel, type ModelSize } from './support/random-model.ts'
import { ScaleFederation } from './support/scale/federation.ts'
import { busiestMs, coresBusy, hostsOf, roundMs, roundsMs, tokensPerSecond, type Interval } from './support/scale/figures.ts'
import type { HostReport, Work } from './support/scale/messages.ts'
import type { DeviceSpeed } from './support/scale/simulated-device.ts'

const MODEL: ModelSize = { hidden: 64, blocks: 6, intermediate: 128, heads: 4, kvHeads: 4, vocabulary: 4096, positions: 512 }

/**
 * A token takes a block of a model of 7 billion parameters about so long at 0.5 TFLOP/s. A pass of eight clients through the four blocks of
 * the middle takes 2.4 s, and twice that back; a decoded token of each 0.83 s.
 */
const SPEED: DeviceSpeed = { blockMs: 200, tokenMs: 0.8 }

const BATCH = { sequences: 1, maxTokens: 64 }
const CLIENTS_PER_WORKER = 8
/** Throughput of k servers with 8k clients over that of one with 8, over k. The papers have 0.99 in training. */
const BAR = 0.95
/** Rounds of which the first is not measured. */
const ROUNDS = 5
const LARGE_ROUNDS = 3
const AVERAGE_EVERY = 4
const PROMPT = Array.from({ length: 16 }, (_, i) => 3 + i)
const NEW_TOKENS = 12
const IDLE_MS = 20_000
/** Servers of the same blocks that a client keeps connections to, at most. */
const LINKED = 8

type Charter = Pick<CreateOptions, 'strategy' | 'averageEvery' | 'ends'>

const STRATEGIES: Readonly<Record<string, Charter>> = {
  'client-batch': { strategy: 'client-batch', ends: { mode: 'shared' } },
  'server-hierarchical': { strategy: 'server-hierarchical', averageEvery: AVERAGE_EVERY, ends: { mode: 'average', every: AVERAGE_EVERY } }
}

/** Runs something with a federation in a directory that is gone afterwards. */
async function withFederation<T> (
  workers: number,
  clients: number,
  charter: Charter,
  use: (federation: ScaleFederation) => Promise<T>
): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'midspan-scale-'))
  try {
    const model = join(directory, 'model')
    await writeRandomModel(model, MODEL)
    const federation = await ScaleFederation.start(directory, {
      model, workers, clients, charter, speed: SPEED, workersPerProcess: workers > 8 ? 8 : 1, clientsPerProcess: clients > 64 ? 64 : 16
    })
    try {
      return await use(federation)
    } finally {
      await federation.stop()
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** Measures what all processes do while something goes on. */
async function during<T> (federation: ScaleFederation, work: () => Promise<T>): Promise<Interval & { readonly result: T }> {
  await federation.reports()
  const startedAtMs = performance.now()
  const result = await work()
  const ms = performance.now() - startedAtMs
  return { result, ms, reports: await federation.reports() }
}

/** Computes the milliseconds of a pass of so many clients, forward and backward, on a device. */
function trainingMs (clients: number): number {
  return 3 * (MODEL.blocks - 2) * (SPEED.blockMs + clients * BATCH.maxTokens * SPEED.tokenMs)
}

interface Row {
  readonly workers: number
  readonly clients: number
  /** Tokens a second. */
  readonly speed: number
  /** The same if nothing but devices took time. */
  readonly floor: number
  readonly interval: Interval
}

interface Rows {
  readonly training: Row
  readonly generation?: Row
}

/** Measures training, and then generation where servers of the same blocks compute the same. */
async function measure (charter: Charter, workers: number, clients: number): Promise<Rows> {
  return await withFederation(workers, clients, charter, async (federation) => {
    const training = said('training', await measureTraining(federation, workers, clients))
    return charter.averageEvery === undefined
      ? { training, generation: said('generation', await measureGeneration(federation, workers, clients)) }
      : { training }
  })
}

async function measureTraining (federation: ScaleFederation, workers: number, clients: number): Promise<Row> {
  const work = await federation.train(ROUNDS, BATCH)
  const interval = { reports: await federation.reports(), ms: roundsMs(work) }
  const tokens = clients * BATCH.maxTokens
  return { workers, clients, speed: 1000 * tokens / roundMs(work), floor: 1000 * tokens / trainingMs(clients / workers), interval }
}

async function measureGeneration (federation: ScaleFederation, workers: number, clients: number): Promise<Row> {
  await federation.connected(Math.min(workers, LINKED))
  const interval = await during(federation, async () => await federation.generate(PROMPT, NEW_TOKENS))
  const runMs = (MODEL.blocks - 2) * (SPEED.blockMs + clients / workers * SPEED.tokenMs)
  return { workers, clients, speed: tokensPerSecond(interval.result), floor: 1000 * clients / runMs, interval }
}

/** Says a row at once: the whole table takes minutes. */
function said (what: string, row: Row): Row {
  const { workers, clients, speed, floor } = row
  console.log(`${what}, ${workers} servers, ${clients} clients: ${speed.toFixed(1)} tok/s, devices alone ${floor.toFixed(1)}`)
  return row
}

const COLUMNS = [
  'servers, clients', 'tok/s', 'over one', 'of k', 'bar', 'devices alone, tok/s', 'reached', 'cores busy', 'busiest device',
  'leader, ms CPU/s', 'late by, ms'
]

function printRows (title: string, rows: readonly Row[]): void {
  const [one] = rows
  console.log(`\n${title}`)
  printTable(COLUMNS, rows.map(({ workers, clients, speed, floor, interval: { reports, ms } }) => {
    const ratio = speed / one!.speed
    const { busy, cores } = coresBusy({ reports, ms })
    return [
      `${workers}, ${clients}`,
      speed.toFixed(0),
      ratio.toFixed(2),
      (ratio * one!.workers / workers).toFixed(3),
      workers === 1 ? '' : BAR.toFixed(2),
      floor.toFixed(0),
      (speed / floor).toFixed(2),
      `${busy.toFixed(2)} of ${cores}`,
      (busiestMs(reports) / ms).toFixed(2),
      (reports.leader.cpuMs / ms * 1000).toFixed(0),
      Math.max(...hostsOf(reports).map(({ lateMs }) => lateMs)).toFixed(0)
    ]
  }))
}

const PHASE_COLUMNS = [
  'each', 'daemons', 'resident, MiB', 'heap, MiB', 'connections', 'CPU, ms a second', 'CPU, ms a round', 'sealed messages a round',
  'device messages a round', 'late by, ms'
]

const MIB = 2 ** 20

/** What a phase of the large federation cost, for those who lead, serve and learn. */
function printPhase (title: string, interval: Interval, rounds = 0): void {
  const { leader, workers, clients } = interval.reports
  const { busy, cores } = coresBusy(interval)
  console.log(`\n${title}: ${(interval.ms / 1000).toFixed(1)} s, ${busy.toFixed(2)} of ${cores} cores busy`)
  const perRound = (value: number): string => rounds === 0 ? '' : (value / rounds).toFixed(1)
  const row = (name: string, hosts: readonly HostReport[]): string[] => {
    const sum = (of: (host: HostReport) => number): number => hosts.reduce((total, host) => total + of(host), 0)
    const daemons = Math.max(1, sum((host) => host.daemons))
    return [
      name, String(sum((host) => host.daemons)), (sum((host) => host.residentBytes) / MIB / daemons).toFixed(1),
      (sum((host) => host.heapBytes) / MIB / daemons).toFixed(1), (sum((host) => host.connections) / daemons).toFixed(1),
      (sum((host) => host.cpuMs) / interval.ms / daemons * 1000).toFixed(1), perRound(sum((host) => host.cpuMs) / daemons),
      perRound(sum((host) => host.messages) / daemons),
      perRound(sum((host) => host.deviceMessages) / daemons), Math.max(0, ...hosts.map(({ lateMs }) => lateMs)).toFixed(0)
    ]
  }
  printTable(PHASE_COLUMNS, [row('leader', [leader]), row('other servers', workers), row('clients', clients)])
}

async function measureLarge (workers: number, clients: number): Promise<void> {
  console.log(`\n${workers} servers and ${clients} clients`)
  await withFederation(workers, clients, STRATEGIES['client-batch']!, async (federation) => {
    const { startMs } = federation
    console.log(`started: servers ${(startMs.workers / 1000).toFixed(1)} s, clients ${(startMs.clients / 1000).toFixed(1)} s`)
    printPhase('idle', await during(federation, async () => { await new Promise((resolve) => setTimeout(resolve, IDLE_MS)) }))
    const work = await federation.train(LARGE_ROUNDS, BATCH)
    const training = { reports: await federation.reports(), ms: roundsMs(work) }
    printPhase('training, without the first round', training, LARGE_ROUNDS - 1)
    printFloor(training, work, { workers, clients })
  })
}

/** What a round takes beside the least that it could take. */
function printFloor (interval: Interval, work: Work, { workers, clients }: { readonly workers: number, readonly clients: number }): void {
  const { reports } = interval
  const rounds = LARGE_ROUNDS - 1
  const cpuMs = hostsOf(reports).reduce((sum, host) => sum + host.cpuMs, 0) / rounds
  const { cores } = coresBusy(interval)
  const columns = ['a round, s', 'measured', 'devices alone', `all processor time over ${cores} cores`, 'leader\'s processor time']
  const times = [roundMs(work), trainingMs(clients / workers), cpuMs / cores, reports.leader.cpuMs / rounds]
  printTable(columns, [['', ...times.map((ms) => (ms / 1000).toFixed(2))]])
  const bytes = (value: number): string => (value / clients / LARGE_ROUNDS / 1024).toFixed(1)
  console.log(`a client and round: ${bytes(work.sentBytes)} KiB sent, ${bytes(work.receivedBytes)} KiB received`)
}

async function main (what: string, counts: readonly number[], perWorker: number): Promise<void> {
  console.log(
    `Simulated devices: ${SPEED.blockMs} ms a run of a block and ${SPEED.tokenMs} ms a token, backward twice that; clients' in no time. ` +
      `Hidden ${MODEL.hidden}, ${MODEL.blocks - 2} of ${MODEL.blocks} blocks on each server, fp16 wire, sealed, loopback`
  )
  for (const [name, charter] of Object.entries(STRATEGIES)) {
    if (what !== 'all' && what !== name) continue
    const rows: Rows[] = []
    for (const workers of counts) rows.push(await measure(charter, workers, workers * perWorker))
    printRows(`training, ${name}, ${BATCH.sequences} x ${BATCH.maxTokens} tokens a client`, rows.map(({ training }) => training))
    const generation = rows.flatMap((row) => row.generation ?? [])
    if (generation.length > 0) printRows(`generation, ${PROMPT.length} + ${NEW_TOKENS} tokens a client`, generation)
  }
  if (what === 'all') await measureLarge(64, 512)
  if (what === 'large') await measureLarge(counts[0]!, counts[0]! * perWorker)
}

restartWithAllocatorSettings()
const [what = 'all', counts, perWorker = String(CLIENTS_PER_WORKER)] = process.argv.slice(2)
await main(what, (counts ?? (what === 'large' ? '64' : '1,2,4,8')).split(',').map(Number), Number(perWorker))
