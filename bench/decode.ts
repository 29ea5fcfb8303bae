/**
 * Generated tokens a second split over a server's and a client's process, sealed, on loopback, beside the same model on one machine, both
 * with two threads; what a token's time is made of; and several clients on one server. Run: node bench/decode.ts [turns, 7]
 */
import { join } from 'node:path'
import { Federation, type FederationPlan, withModel } from './support/federation.ts'
import { type Report, Worker } from './support/messages.ts'
import type { Answer, Question } from './support/monolith.ts'
import { fastest, median, printTable } from './support/print.ts'
import type { ModelSize } from './support/random-model.ts'

const BAR_ADDED_MS = 2
const THREADS = 2
/** Turns that nobody times: code that has run a few hundred times is compiled, on both sides. */
const WARM_UP_TURNS = 2
const TOKENS = 128
const PROMPT = [1, 10, 20, 30, 40, 50, 60, 70]
const CLIENTS = 4
const TARGETS = ['q', 'v'] as const

const MODELS: readonly ModelSize[] = [
  { hidden: 64, blocks: 5, intermediate: 172, heads: 8, kvHeads: 4, vocabulary: 1024, positions: 512 },
  { hidden: 512, blocks: 6, intermediate: 1376, heads: 8, kvHeads: 8, vocabulary: 4096, positions: 512 }
]

interface Measured {
  /** Milliseconds from each token to the next. */
  readonly whole: number[]
  readonly split: number[]
  /** Tokens a second of all clients together. */
  readonly together: number[]
  readonly server: Report
  readonly client: Report
}

async function measure (directory: string, plan: FederationPlan, turns: number): Promise<Measured> {
  const { worker: monolith } = await Worker.start<Question, Answer>(join(import.meta.dirname, 'support/monolith.ts'), [
    plan.model,
    String(THREADS),
    plan.loraTargets.join()
  ])
  const federation = await Federation.start(directory, plan)
  const [whole, split, together]: [number[], number[], number[]] = [[], [], []]
  let reports = await federation.reports()
  const turn = async (): Promise<void> => {
    await federation.reports()
    await federation.generate(0, PROMPT, TOKENS)
    reports = await federation.reports()
    split.push(...gaps(reports.clients[0]?.spans.token?.endedAt ?? []))
    whole.push(...(await monolith.ask({ kind: 'generate', ids: PROMPT, maxTokens: TOKENS, adapters: true })).ms)
    const all = await Promise.all(
      Array.from({ length: plan.clients }, async (_, client) => await federation.generate(client, PROMPT, TOKENS))
    )
    together.push(all.length * (TOKENS - 1) / Math.max(...all.map((one) => one.decodeSeconds)))
  }
  try {
    for (let index = 0; index < WARM_UP_TURNS; index++) await turn()
    for (const values of [whole, split, together]) values.length = 0
    for (let index = 0; index < turns; index++) await turn()
    return { whole, split, together, server: reports.server, client: reports.clients[0] as Report }
  } finally {
    await federation.stop()
    await monolith.stop()
  }
}

function gaps (times: readonly number[]): number[] {
  return times.slice(1).map((time, index) => time - (times[index] as number))
}

function printStages ({ server, client }: Measured): void {
  const each = ({ spans }: Report, name: string): number => (spans[name]?.ms ?? 0) / TOKENS
  const parts = [
    ['client decode, output, input and release', each(client, 'client ends')],
    ['server decode, blocks, encode', each(server, 'server blocks')]
  ] as const
  const rest = each(client, 'token') - parts.reduce((sum, [, ms]) => sum + ms, 0)
  printTable(
    ['  of a token, ms (last turn)', ''],
    [...parts, ['wire, messages and the rest', rest] as const].map(([name, ms]) => [`  ${name}`, ms.toFixed(2)])
  )
}

async function main (turns: number): Promise<void> {
  console.log(`Generation split over monolithic: ${TOKENS} tokens greedily, fp16 wire, ${THREADS} threads each, sealed, loopback`)
  const rows: string[][] = []
  for (const size of MODELS) {
    await withModel(size, async (directory, model) => {
      const measured = await measure(directory, {
        model,
        wire: 'fp16',
        loraTargets: [...TARGETS],
        strategy: 'client-batch',
        clients: CLIENTS,
        clientsPerProcess: 1,
        serverThreads: THREADS,
        clientThreads: THREADS
      }, turns)
      const { whole, split, together } = measured
      const added = median(split) - median(whole)
      const name = `hidden ${size.hidden}, ${size.blocks} blocks`
      console.log(`\n${name}`)
      printStages(measured)
      rows.push([
        name,
        median(whole).toFixed(2),
        median(split).toFixed(2),
        (1000 / median(whole)).toFixed(0),
        (1000 / median(split)).toFixed(0),
        (median(whole) / median(split)).toFixed(2),
        added.toFixed(2),
        (fastest(split) - fastest(whole)).toFixed(2),
        BAR_ADDED_MS.toFixed(2),
        median(together).toFixed(0),
        (median(together) * median(split) / 1000).toFixed(2)
      ])
    })
  }
  console.log()
  printTable([
    'model',
    'whole, ms',
    'split, ms',
    'whole, tok/s',
    'split, tok/s',
    'ratio',
    'added, ms',
    'fastest tenth',
    'bar, at most',
    `${CLIENTS} clients, tok/s`,
    'over one'
  ], rows)
}

await main(Number(process.argv[2] ?? 7))
