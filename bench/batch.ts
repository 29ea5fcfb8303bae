/**
 * Training with all clients in one run over training with one client after the other: tokens a second of the strategies client-batch and
 * sequential, clients of batch 1. Run: node bench/batch.ts [turns, 2]
 */
import { Federation, type FederationPlan, withModel } from './support/federation.ts'
import type { Report } from './support/messages.ts'
import { median, printTable, spread } from './support/print.ts'
import type { ModelSize } from './support/random-model.ts'

/** What the papers report for eight clients. */
const BAR = 1.4
const BAR_CLIENTS = 8
const STRATEGIES = ['client-batch', 'sequential'] as const
const THREADS = 2
/** Clients in a process, so that two cores are not shared by eight event loops. */
const CLIENTS_PER_PROCESS = 4
const CASES = [{ clients: 2, maxTokens: 64 }, { clients: 4, maxTokens: 64 }, { clients: 8, maxTokens: 64 }, {
  clients: 8,
  maxTokens: 256
}] as const
/** Rounds of each client in a turn; the turns of the strategies alternate. */
const ROUNDS_PER_TURN = 5
const TARGETS = ['q', 'v'] as const

const MODEL: ModelSize = { hidden: 512, blocks: 6, intermediate: 1376, heads: 8, kvHeads: 8, vocabulary: 4096, positions: 512 }

interface Reports {
  readonly server: Report
  readonly clients: readonly Report[]
}

interface Measured {
  /** Milliseconds in which every client does one round. */
  readonly ms: number[]
  reports: Reports | undefined
}

type Strategies<T> = Record<typeof STRATEGIES[number], T>

async function measure (
  directory: string,
  plan: Omit<FederationPlan, 'strategy'>,
  batch: { readonly sequences: number, readonly maxTokens: number },
  turns: number
): Promise<Strategies<Measured>> {
  const federations = {
    'client-batch': await Federation.start(directory, { ...plan, strategy: 'client-batch' }),
    sequential: await Federation.start(directory, { ...plan, strategy: 'sequential' })
  }
  const measured: Strategies<Measured> = { 'client-batch': { ms: [], reports: undefined }, sequential: { ms: [], reports: undefined } }
  const turn = async (strategy: typeof STRATEGIES[number], index: number): Promise<void> => {
    const ends: number[] = []
    await federations[strategy].reports()
    await federations[strategy].train(index * ROUNDS_PER_TURN, batch, () => { ends.push(performance.now()) })
    const { ms } = measured[strategy]
    // The last client's first round begins the clock: from there on all are at work.
    const first = ends[plan.clients - 1] as number
    ms.push(((ends.at(-1) as number) - first) / (ROUNDS_PER_TURN - 1))
    measured[strategy].reports = await federations[strategy].reports()
  }
  try {
    for (let index = 1; index <= turns + 1; index++) {
      for (const strategy of STRATEGIES) await turn(strategy, index)
      if (index === 1) for (const strategy of STRATEGIES) measured[strategy].ms.length = 0
    }
    return measured
  } finally {
    await Promise.all(Object.values(federations).map(async (federation) => { await federation.stop() }))
  }
}

/** Where the time of the last turn went, for one round of every client. */
function printStages (measured: Strategies<Measured>, clients: number): void {
  const rows = [
    'server forward',
    'server backward',
    'server step',
    'server snapshot',
    'client input forward',
    'client output, loss and back',
    'client input backward',
    'client step',
    'client snapshot'
  ].map((name) => [
    `  ${name}`,
    ...STRATEGIES.map((strategy) => {
      const { server, clients: others } = measured[strategy].reports as Reports
      return ([server, ...others].reduce((sum, { spans }) => sum + (spans[name]?.ms ?? 0), 0) / ROUNDS_PER_TURN).toFixed(1)
    })
  ])
  const cpu = STRATEGIES.map((strategy) => {
    const { server, clients: others } = measured[strategy].reports as Reports
    return ([server, ...others].reduce((sum, { cpuMs }) => sum + cpuMs, 0) / ROUNDS_PER_TURN).toFixed(0)
  })
  printTable([`  ${clients} clients, ms in all a round of each`, ...STRATEGIES], [...rows, ['  processor time', ...cpu]])
}

async function main (turns: number): Promise<void> {
  console.log(
    `client-batch over sequential: clients of batch 1, hidden ${MODEL.hidden}, ${MODEL.blocks} blocks, ${THREADS} threads each, fp16 wire, sealed, loopback`
  )
  const rows: string[][] = []
  await withModel(MODEL, async (directory, model) => {
    for (const { clients, maxTokens } of CASES) {
      const plan = {
        model,
        wire: 'fp16',
        loraTargets: [...TARGETS],
        clients,
        clientsPerProcess: CLIENTS_PER_PROCESS,
        serverThreads: THREADS,
        clientThreads: THREADS
      } as const
      const measured = await measure(directory, plan, { sequences: 1, maxTokens }, turns)
      const { 'client-batch': together, sequential } = measured
      const tokensPerS = (ms: number): string => (1000 * clients * maxTokens / ms).toFixed(0)
      const ratio = median(sequential.ms) / median(together.ms)
      rows.push([
        `1 x ${maxTokens}, ${clients} clients`,
        spread(sequential.ms),
        spread(together.ms),
        tokensPerS(median(sequential.ms)),
        tokensPerS(median(together.ms)),
        ratio.toFixed(2),
        clients === BAR_CLIENTS ? BAR.toFixed(2) : ''
      ])
      console.log(`\n${maxTokens} tokens each: ${ratio.toFixed(2)}`)
      printStages(measured, clients)
    }
  })
  console.log()
  printTable(['batch', 'sequential, ms', 'client-batch, ms', 'tok/s', 'tok/s', 'ratio', 'bar, at least'], rows)
}

await main(Number(process.argv[2] ?? 2))
