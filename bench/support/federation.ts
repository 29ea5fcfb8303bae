import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { GivenParameters, OperationName } from '../../src/api/operations.ts'
import { pretrainingDocuments } from '../../src/cli/demo/corpus.ts'
import { ControlClient } from '../../src/node/control/client.ts'
import { createDefaults } from '../../src/node/federation/create-defaults.ts'
import { createFederation, type CreateOptions } from '../../src/node/federation/create.ts'
import { joinFederation } from '../../src/node/federation/join.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { type Report, Worker } from './messages.ts'
import { type ModelSize, writeRandomModel } from './random-model.ts'

const PEER = join(import.meta.dirname, 'peer.ts')

/** Long enough for the largest model on a busy machine. */
const LIMIT_MS = 600_000
/** More tokens than any benchmark's rounds take, so that no batch is cut short at the end of the data. */
const DOCUMENTS = 4000

/** As a federation is founded unless a benchmark says otherwise: no noise, whose cost would hide the rest; no clip. */
export const founding: Omit<CreateOptions, 'model' | 'strategy' | 'wire' | 'loraTargets' | 'minClients'> = {
  ...createDefaults,
  name: 'bench',
  admission: 'open',
  clip: 'none',
  seed: '00',
  learningRate: 1e-4,
  roundDeadline: LIMIT_MS,
  maxClients: 8,
  cacheBytes: 2 ** 28
}

export interface FederationPlan extends Pick<CreateOptions, 'strategy' | 'wire'>, Partial<Pick<CreateOptions, 'inputBlocks' | 'outputBlocks'>> {
  readonly loraTargets: readonly string[]
  readonly model: string
  readonly clients: number
  /** Clients that share a process. */
  readonly clientsPerProcess: number
  readonly serverThreads: number
  readonly clientThreads: number
  /** Whether reports say how late event loops were; false when left out. */
  readonly watchEventLoops?: boolean
}

export interface RoundEvent {
  readonly type: 'round'
  readonly done: number
  readonly tokens: number
  readonly sentBytes: number
  readonly receivedBytes: number
}

export interface GenerateDone {
  readonly ids: readonly number[]
  readonly decodeSeconds: number
  readonly tokensPerSecond: number
}

/**
 * How long the steps of a start took: founding, which reads the whole model; the server, which loads its blocks; the joining of all
 * clients; their processes.
 */
export type StartMs = Readonly<Record<'found' | 'server' | 'join' | 'clients', number>>

/** A server's process and its clients' processes on loopback. */
export class Federation {
  readonly server: Worker<'report', Report>
  readonly processes: ReadonlyArray<Worker<'report', Report>>
  readonly startMs: StartMs
  readonly #homes: readonly string[]
  readonly #data: string

  private constructor (
    server: Worker<'report', Report>,
    processes: ReadonlyArray<Worker<'report', Report>>,
    startMs: StartMs,
    homes: readonly string[],
    data: string
  ) {
    this.server = server
    this.processes = processes
    this.startMs = startMs
    this.#homes = homes
    this.#data = data
  }

  /** Founds it in a directory, starts its processes and lets the clients join. */
  static async start (
    directory: string,
    { clients, clientsPerProcess, serverThreads, clientThreads, watchEventLoops = false, ...plan }: FederationPlan
  ): Promise<Federation> {
    const startMs = { found: 0, server: 0, join: 0, clients: 0 }
    let last = performance.now()
    const lap = (step: keyof StartMs): void => {
      startMs[step] = performance.now() - last
      last = performance.now()
    }
    const serverHome = await mkdtemp(join(directory, 'server-'))
    await createFederation(serverHome, { ...founding, ...plan, minClients: plan.strategy === 'sequential' ? 1 : clients }, limit())
    lap('found')
    const { worker: server } = await Worker.start<'report', Report>(PEER, [
      String(serverThreads),
      'true',
      String(watchEventLoops),
      serverHome
    ])
    lap('server')
    const { addresses } = await new ControlClient(homeAt(serverHome)).request('status', {}, limit())
    const invite = addresses.find((address) => address.includes('127.0.0.1')) as string
    const homes: string[] = []
    for (let client = 0; client < clients; client++) {
      const home = await mkdtemp(join(directory, 'client-'))
      await joinFederation(home, { invite }, limit())
      homes.push(home)
    }
    lap('join')
    const processes: Array<Worker<'report', Report>> = []
    for (let first = 0; first < clients; first += clientsPerProcess) {
      processes.push(
        (await Worker.start<'report', Report>(PEER, [
          String(clientThreads),
          'false',
          String(watchEventLoops),
          ...homes.slice(first, first + clientsPerProcess)
        ])).worker
      )
    }
    lap('clients')
    const data = join(directory, 'data.jsonl')
    const documents = pretrainingDocuments('bench')
    await writeFile(data, Array.from({ length: DOCUMENTS }, () => `${JSON.stringify({ text: documents.next().value })}\n`).join(''))
    return new Federation(server, processes, startMs, homes, data)
  }

  /** Trains with every client until each has done this many rounds in all; `onRound` hears of each as it is told. */
  async train (
    rounds: number,
    batch: { readonly sequences: number, readonly maxTokens: number },
    onRound: (client: number, event: RoundEvent) => void
  ): Promise<void> {
    await Promise.all(this.#homes.map(async (_, client) => {
      for await (const event of this.#stream(client, 'train', { data: this.#data, rounds, ...batch, lossOn: 'all' })) {
        if ('type' in event && event.type === 'round') onRound(client, event as RoundEvent)
      }
    }))
  }

  async generate (client: number, ids: readonly number[], maxTokens: number): Promise<GenerateDone> {
    let last: object = {}
    // A prompt that comes again would be answered from the drafts of its last text.
    for await (const event of this.#stream(client, 'generate', { ids, maxTokens, speculate: 'off' })) last = event
    return last as GenerateDone
  }

  /** What the server and every client's process did since the last time. */
  async reports (): Promise<{ server: Report, clients: Report[] }> {
    return {
      server: await this.server.ask('report'),
      clients: await Promise.all(this.processes.map(async (process) => await process.ask('report')))
    }
  }

  async stop (): Promise<void> {
    await Promise.all(this.processes.map(async (process) => { await process.stop() }))
    await this.server.stop()
  }

  #stream (client: number, operation: string, parameters: object): AsyncGenerator<object> {
    const given = parameters as GivenParameters<OperationName>
    return new ControlClient(homeAt(this.#homes[client] as string)).stream(operation as OperationName, given, limit())
  }
}

/** Runs something with a model and room for homes in a directory that is gone afterwards. */
export async function withModel<T> (size: ModelSize, use: (directory: string, model: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'midspan-bench-'))
  try {
    const model = join(directory, 'model')
    await writeRandomModel(model, size)
    return await use(directory, model)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

function limit (): AbortSignal {
  return AbortSignal.timeout(LIMIT_MS)
}
