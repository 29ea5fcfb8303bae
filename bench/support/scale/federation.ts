import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pretrainingDocuments } from '../../../src/cli/demo/corpus.ts'
import { ControlClient } from '../../../src/node/control/client.ts'
import { createFederation, type CreateOptions } from '../../../src/node/federation/create.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { spanText } from '../../../src/span.ts'
import { founding } from '../federation.ts'
import { Worker } from '../messages.ts'
import type { Answer, HostReport, HostSettings, Order, Work } from './messages.ts'
import { instantly, type DeviceSpeed } from './simulated-device.ts'

const HOST = join(import.meta.dirname, 'host.ts')
const INVITE_MS = 3_600_000
const LOOK_MS = 100

/** More tokens than the rounds of a benchmark take. */
const DOCUMENTS = 60

/** What a simulated federation is made of. */
export interface ScalePlan {
  readonly model: string
  /** Servers that compute, all of the same blocks. The first of them leads. */
  readonly workers: number
  readonly clients: number
  readonly workersPerProcess: number
  readonly clientsPerProcess: number
  /** Of the servers' devices. Those of clients compute in no time. */
  readonly speed: DeviceSpeed
  readonly charter: Pick<CreateOptions, 'strategy' | 'averageEvery' | 'ends'>
  /** Hosts peers; each in a process of its own where this is left out. */
  readonly host?: (settings: HostSettings) => Promise<Host>
}

/** Peers of one role, with simulated devices. */
export interface Host {
  ask (order: Order): Promise<Answer>
  stop (): Promise<void>
}

/** What the processes of each kind did since they were last asked. */
export interface ScaleReports {
  readonly leader: HostReport
  readonly workers: readonly HostReport[]
  readonly clients: readonly HostReport[]
}

/** Milliseconds that the steps of a start took. */
export interface StartMs {
  readonly workers: number
  readonly clients: number
}

/** Servers and clients with simulated devices, in processes of their own on loopback. Everything but the devices is real. */
export class ScaleFederation {
  readonly startMs: StartMs
  readonly #leader: Host
  readonly #workers: readonly Host[]
  readonly #clients: readonly Host[]
  readonly #control: ControlClient
  readonly #data: string

  private constructor (
    hosts: { leader: Host, workers: readonly Host[], clients: readonly Host[] },
    control: ControlClient,
    data: string,
    startMs: StartMs
  ) {
    this.#control = control
    this.#leader = hosts.leader
    this.#workers = hosts.workers
    this.#clients = hosts.clients
    this.#data = data
    this.startMs = startMs
  }

  /** Founds a federation in a directory and starts its processes. The caller stops it. */
  static async start (directory: string, plan: ScalePlan): Promise<ScaleFederation> {
    const { model, charter, speed, host = hostInProcess } = plan
    const hosts = { leader: await host({ role: 'server', speed }), workers: [] as Host[], clients: [] as Host[] }
    const stop = async (): Promise<void> => { await stopAll([...hosts.clients, ...hosts.workers, hosts.leader]) }
    try {
      const home = await mkdtemp(join(directory, 'leader-'))
      await createFederation(home, {
        ...founding, ...charter, model, wire: 'fp16', loraTargets: ['q', 'v'], minClients: plan.clients, maxClients: plan.clients
      }, AbortSignal.timeout(INVITE_MS))
      await ask(hosts.leader, { kind: 'start', homes: [home] })
      const control = new ControlClient(homeAt(home))
      const signal = AbortSignal.timeout(INVITE_MS)
      const startedAtMs = performance.now()
      if (plan.workers > 1) {
        const uses = plan.workers - 1
        const { invite } = await control.request('invite', { role: 'server', expiresMs: INVITE_MS, uses }, signal)
        const { blocks } = await control.request('status', {}, signal)
        hosts.workers.push(...await started(
          await homesIn(directory, 'worker', uses), plan.workersPerProcess, async () => await host({ role: 'server', speed }),
          { invite, model, blocks: spanText(blocks!) }
        ))
      }
      const workersAtMs = performance.now()
      const { addresses } = await control.request('status', {}, signal)
      const invite = addresses.find((address) => address.includes('127.0.0.1')) as string
      const homes = await homesIn(directory, 'client', plan.clients)
      hosts.clients.push(...await started(
        homes, plan.clientsPerProcess, async () => await host({ role: 'client', speed: instantly }), { invite }
      ))
      const startMs = { workers: workersAtMs - startedAtMs, clients: performance.now() - workersAtMs }
      const data = join(directory, 'data.jsonl')
      const documents = pretrainingDocuments('scale')
      await writeFile(data, Array.from({ length: DOCUMENTS }, () => `${JSON.stringify({ text: documents.next().value })}\n`).join(''))
      return new ScaleFederation(hosts, control, data, startMs)
    } catch (error) {
      await stop()
      throw error
    }
  }

  /** Resolves when every client has connections to this many servers. */
  async connected (servers: number): Promise<void> {
    await Promise.all(this.#clients.map(async (host) => { await ask(host, { kind: 'connected', servers }) }))
  }

  /**
   * Trains with every client, which has not trained before, for this many rounds. Resolves with the times of each client's rounds. The next
   * reports are of what came after the first round.
   */
  async train (rounds: number, batch: { readonly sequences: number, readonly maxTokens: number }): Promise<Work> {
    const work = this.#work({ kind: 'train', data: this.#data, rounds, ...batch })
    await Promise.race([this.#firstRound(), work])
    for (const host of [this.#leader, ...this.#workers]) await ask(host, { kind: 'report' })
    return await work
  }

  /** Has every client generate a text at the same time. Resolves with the times of each client's tokens. */
  async generate (ids: readonly number[], maxTokens: number): Promise<Work> {
    return await this.#work({ kind: 'generate', ids, maxTokens })
  }

  /** What all processes did since the last time. */
  async reports (): Promise<ScaleReports> {
    const of = async (host: Host): Promise<HostReport> => (await ask(host, { kind: 'report' })).report!
    return {
      leader: await of(this.#leader),
      workers: await Promise.all(this.#workers.map(of)),
      clients: await Promise.all(this.#clients.map(of))
    }
  }

  async stop (): Promise<void> {
    await stopAll([...this.#clients, ...this.#workers, this.#leader])
  }

  async #firstRound (): Promise<void> {
    const signal = AbortSignal.timeout(INVITE_MS)
    while (((await this.#control.request('status', {}, signal)).training?.round ?? 0) === 0) await sleep(LOOK_MS)
  }

  async #work (order: Order): Promise<Work> {
    const all = await Promise.all(this.#clients.map(async (host) => (await ask(host, order)).work!))
    return {
      times: all.flatMap(({ times }) => times),
      sentBytes: all.reduce((sum, { sentBytes }) => sum + sentBytes, 0),
      receivedBytes: all.reduce((sum, { receivedBytes }) => sum + receivedBytes, 0)
    }
  }
}

async function hostInProcess (settings: HostSettings): Promise<Host> {
  return (await Worker.start<Order, Answer>(HOST, [JSON.stringify(settings)])).worker
}

/** Starts the daemons of homes, so many in a process. */
async function started (
  homes: readonly string[],
  perProcess: number,
  open: () => Promise<Host>,
  joining: Omit<Extract<Order, { kind: 'start' }>, 'kind' | 'homes'>
): Promise<Host[]> {
  const groups = Array.from({ length: Math.ceil(homes.length / perProcess) }, (_, i) => homes.slice(i * perProcess, (i + 1) * perProcess))
  return await Promise.all(groups.map(async (own) => {
    const host = await open()
    await ask(host, { kind: 'start', homes: own, ...joining })
    return host
  }))
}

async function homesIn (directory: string, name: string, count: number): Promise<string[]> {
  const homes: string[] = []
  for (let i = 0; i < count; i++) homes.push(await mkdtemp(join(directory, `${name}-`)))
  return homes
}

async function ask (host: Host, order: Order): Promise<Answer> {
  const answer = await host.ask(order)
  if (answer.failure !== undefined) throw new Error(`a process of the benchmark failed: ${answer.failure}`)
  return answer
}

async function stopAll (hosts: readonly Host[]): Promise<void> {
  await Promise.all(hosts.map(async (host) => { await host.stop() }))
}
