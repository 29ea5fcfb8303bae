/**
 * A training step split over a server's and a client's process, sealed, on loopback, over the same step on one machine, both with two
 * threads; and where its time goes. Run: node bench/step.ts [turns, 4] [only rows with this in their name]
 */
import { join } from 'node:path'
import { Federation, type FederationPlan, withModel } from './support/federation.ts'
import { type Report, Worker } from './support/messages.ts'
import type { Answer, Question } from './support/monolith.ts'
import { median, printTable, spread } from './support/print.ts'
import { randomBatches } from './support/random-batch.ts'
import type { ModelSize } from './support/random-model.ts'

const BAR = 1.15
const THREADS = 2
const BATCH = { sequences: 4, maxTokens: 256 }
/** Steps of each kind in a turn; the turns alternate, so that both kinds see the same machine. */
const STEPS_PER_TURN = 5
/** At the start of a turn caches are cold and the training stream is new. */
const DISCARDED = 1

const MODELS: readonly ModelSize[] = [
  { hidden: 512, blocks: 6, intermediate: 1376, heads: 8, kvHeads: 8, vocabulary: 4096, positions: 512 },
  { hidden: 1024, blocks: 4, intermediate: 2752, heads: 16, kvHeads: 16, vocabulary: 4096, positions: 512 }
]

const TARGETS = [['q', 'v'], ['q', 'k', 'v', 'o']] as const
const WIRES = ['fp16', 'fp32'] as const

interface Measured {
  readonly split: readonly number[]
  readonly whole: readonly number[]
  readonly wireMiB: number
  /** Of the whole model's steps, the discarded ones too. */
  readonly wholeCpuMs: number
  readonly server: Report
  readonly client: Report
  /** Of split steps, the discarded ones too. */
  readonly steps: number
}

async function measure (directory: string, plan: FederationPlan, vocabulary: number, turns: number): Promise<Measured> {
  const { worker: monolith } = await Worker.start<Question, Answer>(join(import.meta.dirname, 'support/monolith.ts'), [
    plan.model,
    String(THREADS),
    plan.loraTargets.join()
  ])
  const federation = await Federation.start(directory, plan)
  const split: number[] = []
  const whole: number[] = []
  let wireBytes = 0
  let wholeCpuMs = 0
  const turn = async (index: number): Promise<void> => {
    const ends: number[] = []
    await federation.train(index * STEPS_PER_TURN, BATCH, (_, { sentBytes, receivedBytes }) => {
      ends.push(performance.now())
      wireBytes = sentBytes + receivedBytes
    })
    split.push(...ends.slice(DISCARDED).map((end, round) => end - (ends[round] as number)))
    const { ms, cpuMs } = await monolith.ask({
      kind: 'train',
      batches: randomBatches(STEPS_PER_TURN, { sequences: BATCH.sequences, tokens: BATCH.maxTokens, vocabulary }, String(index))
    })
    whole.push(...ms.slice(DISCARDED))
    wholeCpuMs += cpuMs
  }
  try {
    await turn(1)
    await federation.reports()
    split.length = 0
    whole.length = 0
    wholeCpuMs = 0
    for (let index = 2; index < turns + 2; index++) await turn(index)
    const { server, clients: [client] } = await federation.reports()
    return { split, whole, wholeCpuMs, wireMiB: wireBytes / 2 ** 20, server, client: client as Report, steps: turns * STEPS_PER_TURN }
  } finally {
    await federation.stop()
    await monolith.stop()
  }
}

/** What waits for nothing else, so that a step is their sum and what is left is the wire. */
const STAGES = [
  'client input forward',
  'server forward',
  'client output, loss and back',
  'server backward',
  'client input backward',
  'client contribution',
  'server step',
  'server snapshot',
  'client step'
]

function printStages ({ split, server, client, steps }: Measured): void {
  const spans = { ...server.spans, ...client.spans }
  const stages = STAGES.map((name) => ({ name, ms: (spans[name]?.ms ?? 0) / steps }))
  const rest = median(split) - stages.reduce((sum, { ms }) => sum + ms, 0)
  printTable(
    ['  of a step, ms', ''],
    [...stages, { name: 'wire, messages and the rest', ms: rest }].map(({ name, ms }) => [`  ${name}`, ms.toFixed(1)])
  )
  console.log(`  while the next step computes: client snapshot ${((spans['client snapshot']?.ms ?? 0) / steps).toFixed(1)}`)
  const rounding = (report: Report): string =>
    (['encode', 'decode'] as const).map((name) => `${name} ${((report.spans[name]?.ms ?? 0) / steps).toFixed(1)}`).join(', ')
  console.log(`  within these: server ${rounding(server)}; client ${rounding(client)}`)
  console.log(
    `  event loop late by at most: server ${server.lateMs.worst.toFixed(1)} ms, client ${client.lateMs.worst.toFixed(1)} ms (99 %: ${
      server.lateMs.p99.toFixed(1)
    }, ${client.lateMs.p99.toFixed(1)})`
  )
}

async function main (turns: number, only: string): Promise<void> {
  console.log(
    `Split training step over the monolithic one: ${BATCH.sequences} x ${BATCH.maxTokens} tokens, LoRA r 8, ${THREADS} threads each, sealed, loopback`
  )
  const rows: string[][] = []
  for (const size of MODELS) {
    const cases = TARGETS.flatMap((targets) =>
      WIRES.map((wire) => ({
        loraTargets: [...targets],
        wire,
        name: `hidden ${size.hidden}, ${size.blocks} blocks, ${targets.join()}, ${wire}`
      }))
    )
      .filter(({ name }) => name.includes(only))
    if (cases.length === 0) continue
    await withModel(size, async (directory, model) => {
      for (const { loraTargets, wire, name } of cases) {
        const measured = await measure(
          directory,
          {
            model,
            wire,
            loraTargets,
            strategy: 'client-batch',
            clients: 1,
            clientsPerProcess: 1,
            serverThreads: THREADS,
            clientThreads: THREADS,
            watchEventLoops: true
          },
          size.vocabulary,
          turns
        )
        const ratio = median(measured.split) / median(measured.whole)
        rows.push([
          name,
          spread(measured.whole),
          spread(measured.split),
          measured.wireMiB.toFixed(1),
          ((measured.server.cpuMs + measured.client.cpuMs) / measured.wholeCpuMs).toFixed(2),
          ratio.toFixed(2),
          BAR.toFixed(2)
        ])
        console.log(`\n${name}: ${ratio.toFixed(2)}`)
        printStages(measured)
      }
    })
  }
  console.log()
  printTable(['model, adapters, wire', 'whole, ms', 'split, ms', 'MiB', 'CPU ratio', 'ratio', 'bar, at most'], rows)
}

await main(Number(process.argv[2] ?? 4), process.argv[3] ?? '')
