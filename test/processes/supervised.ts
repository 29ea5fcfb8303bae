import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { readPeftAdapter } from '../../src/model/checkpoint/peft.ts'
import { ControlClient } from '../../src/node/control/client.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { homeAt } from '../../src/node/home/home.ts'
import type { Span } from '../../src/span.ts'
import { bytesOf } from '../../src/tensor.ts'
import { MidspanProcess } from '../cli/process.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation, TestPeer, type ClientOptions } from '../roles/helpers.ts'
import { startWorkers } from '../roles/workers.ts'

const EXPORT_TIMEOUT_MS = 60_000
/** A supervisor's pause before it starts a command again. */
const RETRY_MS = 100
const SEQUENCES = 2
const LOOPBACK = ['/ip4/127.0.0.1/tcp/0']

export interface TrainedOptions {
  readonly charter?: Partial<CreateOptions>
  readonly clients: readonly ClientOptions[]
  readonly rounds: number
  /** Blocks on several servers: the founder's, and each worker's. The founder serves all of them unless given. */
  readonly spans?: { readonly founder: Span, readonly workers: readonly Span[] }
}

/** What a run came to: exported adapters by client, as hexadecimal bytes by tensor, and what `train` said. */
export interface Outcome {
  readonly adapters: ReadonlyArray<Readonly<Record<string, string>>>
  /** Distinct complaints with which `train` commands ended before they were started again. */
  readonly complaints: readonly string[]
}

export type Role = 'server' | `worker-${number}` | `client-${number}`

/** Instants at which daemons end themselves, as die-at.ts names them: one for each time that a daemon is started. */
export type Deaths = Readonly<Partial<Record<Role, readonly string[]>>>

/** What disturbs a run: called once when it is under way. */
export type Disturb = (run: SupervisedRun) => Promise<void>

/** Homes of a federation that has not trained yet, from which runs are started that differ in nothing but what happens to them. */
export class Homes {
  readonly root: string
  readonly options: TrainedOptions
  readonly listen: string
  #runs = 0

  private constructor (root: string, options: TrainedOptions, listen: string) {
    this.root = root
    this.options = options
    this.listen = listen
  }

  static async create (options: TrainedOptions): Promise<Homes> {
    const root = await mkdtemp(join(tmpdir(), 'midspan-kill-'))
    const model = join(root, 'model')
    await writeTinyModel(model)
    for (const index of options.clients.keys()) await writeTinyData(join(root, `client-${index}.jsonl`), index + 1)
    const { clients, spans } = options
    const charter = { loraTargets: ['q', 'v'], loraR: 2, learningRate: 1e-2, minClients: clients.length, ...options.charter }
    const federation = spans === undefined
      ? { ...await startFederation({ model, clients, charter }), workers: [] }
      : await startWorkers({ model, clients, charter }, spans)
    for (const peer of [...federation.clients.map(({ peer }) => peer), ...federation.workers, federation.server]) await peer.stop()
    for (const name of names(options))
      await cp(federation.path(name), join(root, name), {
        recursive: true,
        filter: (path) => !path.endsWith('.sock')
      })
    await federation.stop()
    return new Homes(root, options, federation.address.split('/p2p/')[0] ?? '')
  }

  /** Trains to the end in processes of its own, each started again whenever it dies, and exports. */
  async run (disturb: Disturb = async () => {}, deaths: Deaths = {}): Promise<Outcome> {
    const root = await this.#copy()
    const run = new SupervisedRun(this, root)
    try {
      return await run.complete(disturb, deaths)
    } finally {
      await run.stop()
    }
  }

  /** Trains to the end in this process, undisturbed, and exports. */
  async runAlone (): Promise<Outcome> {
    const root = await this.#copy()
    const homes = (kind: string): string[] => names(this.options).filter((name) => name.startsWith(kind)).map((name) => join(root, name))
    const clients = homes('client')
    const peers = [await TestPeer.start(join(root, 'server'), [this.listen])]
    try {
      for (const worker of homes('worker')) peers.push(await TestPeer.start(worker, LOOPBACK))
      const trainers: TestPeer[] = []
      for (const client of clients) trainers.push(await TestPeer.start(client))
      peers.push(...trainers)
      await Promise.all(
        trainers.map(async (peer, index) => {
          await peer.ask('train', { data: this.data(index), rounds: this.options.rounds, sequences: SEQUENCES, packing: 'padded' })
        })
      )
      const adapters = []
      for (const client of clients) adapters.push(await exported(client))
      return { adapters, complaints: [] }
    } finally {
      for (const peer of peers.reverse()) await peer.stop()
    }
  }

  data (client: number): string {
    return join(this.root, `client-${client}.jsonl`)
  }

  async #copy (): Promise<string> {
    const root = join(this.root, `run-${++this.#runs}`)
    for (const name of names(this.options)) await cp(join(this.root, name), join(root, name), { recursive: true })
    return root
  }

  async remove (): Promise<void> {
    await rm(this.root, { recursive: true, force: true })
  }
}

/** One run: a server, clients, and their `train` commands, as processes. */
export class SupervisedRun {
  readonly #homes: Homes
  readonly #root: string
  readonly #daemons = new Map<Role, Promise<MidspanProcess>>()
  /** `train` commands, by client: the newest ones. */
  readonly #commands: MidspanProcess[] = []
  readonly #complaints = new Set<string>()
  /** Instants at which a daemon was to die and has not died. */
  readonly #awaited = new Set<string>()
  #stopped = false

  constructor (homes: Homes, root: string) {
    this.#homes = homes
    this.#root = root
  }

  async complete (disturb: Disturb, deaths: Deaths): Promise<Outcome> {
    const roles = names(this.#homes.options)
    for (const role of roles) this.#keep(role, deaths[role] ?? [])
    await Promise.all(this.#daemons.values())
    const clients = roles.filter((role) => role.startsWith('client'))
    await Promise.all([disturb(this), ...clients.map(async (_, index) => { await this.#train(index) })])
    if (this.#awaited.size > 0) throw new Error(`nobody died at ${[...this.#awaited].join(', ')}`)
    const adapters: Outcome['adapters'][number][] = []
    for (const client of clients) adapters.push(await exported(join(this.#root, client)))
    return { adapters, complaints: [...this.#complaints] }
  }

  /** Resolves when some client says that it has done this many rounds. */
  async reached (rounds: number): Promise<void> {
    while (!this.#commands.some(({ out }) => roundsIn(out) >= rounds)) await delay(5)
  }

  /** Kills a daemon; it is started again at once. Resolves when it is back. */
  async kill (role: Role): Promise<void> {
    const daemon = this.#daemons.get(role)
    await (await daemon)?.stop('SIGKILL')
    while (this.#daemons.get(role) === daemon) await delay(5)
    await this.#daemons.get(role)
  }

  /** Runs a command on a client to its end. */
  async command (
    name: string,
    client: number,
    ...options: readonly string[]
  ): Promise<{ readonly code: number | null, readonly err: string }> {
    return await new MidspanProcess([name, '--home', join(this.#root, `client-${client}`), ...options]).end()
  }

  /** Resolves when a daemon runs that was started after this call, in place of one that died. */
  async back (role: Role, before: Promise<MidspanProcess> | undefined): Promise<void> {
    while (this.#daemons.get(role) === before) await delay(5)
    await this.#daemons.get(role)
  }

  daemon (role: Role): Promise<MidspanProcess> | undefined { return this.#daemons.get(role) }

  async stop (): Promise<void> {
    this.#stopped = true
    for (const daemon of this.#daemons.values()) await (await daemon.catch(() => undefined))?.stop('SIGKILL')
  }

  /** Starts a daemon, and starts it again when it dies. */
  #keep (role: Role, [death, ...later]: readonly string[]): void {
    if (death !== undefined) this.#awaited.add(`${role}: ${death}`)
    const started = this.#start(role, death)
    this.#daemons.set(role, started)
    void started.then(async (daemon) => {
      await daemon.end()
      this.#awaited.delete(`${role}: ${death}`)
    }).catch((error: unknown) => { this.#complaints.add(String(error)) }).then(() => {
      if (!this.#stopped) this.#keep(role, later)
    })
  }

  async #start (role: Role, dieAt: string | undefined): Promise<MidspanProcess> {
    const listen = role === 'server' ? ['--listen', this.#homes.listen] : role.startsWith('worker') ? ['--listen', ...LOOPBACK] : []
    const environment = dieAt === undefined ? {} : { DIE_AT: dieAt, NODE_OPTIONS: `--import=${new URL('die-at.ts', import.meta.url).href}` }
    const daemon = new MidspanProcess(['daemon', '--home', join(this.#root, role), '--threads', '1', ...listen], environment)
    try {
      await daemon.line('Daemon is ready')
      return daemon
    } catch (error) {
      await daemon.stop('SIGKILL')
      throw error
    }
  }

  async #train (index: number): Promise<void> {
    const { rounds } = this.#homes.options
    const home = join(this.#root, `client-${index}`)
    while (!this.#stopped) {
      const command = new MidspanProcess([
        'train',
        '--home',
        home,
        '--data',
        this.#homes.data(index),
        '--rounds',
        String(rounds),
        '--sequences',
        String(SEQUENCES),
        '--packing',
        'padded',
        '--json'
      ])
      this.#commands[index] = command
      const { code, err } = await command.end()
      if (code === 0) return
      this.#complaints.add(err.replaceAll(home, 'HOME').trim())
      await delay(RETRY_MS)
      await this.#daemons.get(`client-${index}`)?.catch(() => {}) // while its daemon starts, a command would only say so
    }
  }

}

async function exported (home: string): Promise<Record<string, string>> {
  const out = `${home}-adapter`
  await new ControlClient(homeAt(home)).request('export', { out }, AbortSignal.timeout(EXPORT_TIMEOUT_MS))
  const { tensors } = await readPeftAdapter(out)
  return Object.fromEntries([...tensors].map(([name, tensor]) => [name, Buffer.from(bytesOf(tensor)).toString('hex')]))
}

/** How many rounds a `train` command said are done. */
function roundsIn (out: string): number {
  return Number(out.match(/"done":(\d+)(?!.*"done":\d)/s)?.[1] ?? 0)
}

/** Returns the peers of a run: their roles, which are also the names of their homes. */
export function names ({ clients, spans }: Pick<TrainedOptions, 'clients' | 'spans'>): Role[] {
  return ['server', ...(spans?.workers ?? []).map((_, index) => `worker-${index}` as const), ...clients.map((_, index) => `client-${index}` as const)]
}
