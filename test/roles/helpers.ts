import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { generateKeyPairFromSeed, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { OperationName } from '../../src/api/operations.ts'
import { readPeftAdapter, type PeftAdapter } from '../../src/model/checkpoint/peft.ts'
import { ControlClient } from '../../src/node/control/client.ts'
import { startDaemon, type Daemon } from '../../src/node/daemon/daemon.ts'
import type { Roles } from '../../src/node/daemon/roles.ts'
import { createFederation, type CreatedFederation, type CreateOptions } from '../../src/node/federation/create.ts'
import { joinFederation } from '../../src/node/federation/join.ts'
import { createHome, homeAt } from '../../src/node/home/home.ts'
import type { Tensor } from '../../src/tensor.ts'
import { foundDefaults } from '../helpers/founding.ts'

export interface ClientOptions {
  readonly inputBlocks?: number
  readonly outputBlocks?: number
  readonly noise?: number
  readonly gradientNoise?: number
  readonly keepStream?: boolean
}

export interface FederationOptions {
  /** A model directory. */
  readonly model: string
  /** What the charter has other than the exact default. */
  readonly charter?: Partial<CreateOptions>
  readonly clients: readonly ClientOptions[]
  /** Peers' identities follow from it, so that two federations with one seed have the same peer ids. Random without it. */
  readonly identities?: string
}

/** What a test passes to `train`, and the daemon's own defaults for the rest. */
export interface TrainParameters {
  readonly data: string
  readonly rounds: number
  readonly [name: string]: unknown
}

export interface RoundEvent {
  readonly type: 'round'
  readonly round: number
  readonly loss: number
  readonly tokens: number
  readonly sentBytes: number
  readonly receivedBytes: number
  readonly clippedFraction: number
  readonly leftOut: boolean
  readonly members: number
}

export interface EvaluationResult {
  readonly loss: number
  readonly tokens: number
  readonly sentBytes: number
}

export interface GenerationResult {
  readonly ids: number[]
  readonly text: string
  readonly reason: 'stop' | 'length' | 'context'
  readonly sentBytes: number
}

/** A peer of a federation in this process: a real daemon, on a real socket, asked through its control socket. */
export class TestPeer {
  readonly home: string
  readonly peerId: string
  readonly #listen: string[]
  #daemon: Daemon

  private constructor (home: string, daemon: Daemon, listen: string[]) {
    this.home = home
    this.#daemon = daemon
    this.peerId = daemon.status().peerId
    this.#listen = listen
  }

  static async start (home: string, listen: string[] = [], roles?: Roles): Promise<TestPeer> {
    const daemon = await startDaemon(home, { listen, threads: 1, logLevel: 'info' }, roles === undefined ? {} : { roles })
    // A server that comes back is found where it was.
    return new TestPeer(
      home,
      daemon,
      listen.length === 0 ? [] : daemon.node.getMultiaddrs().map((address) => address.toString().split('/p2p/')[0] ?? '')
    )
  }

  get daemon (): Daemon { return this.#daemon }

  /** Events of an operation as they come. */
  events (operation: string, parameters: object, signal = AbortSignal.timeout(300_000)): AsyncGenerator<object> {
    return new ControlClient(homeAt(this.home)).stream(operation as OperationName, parameters, signal)
  }

  /** The last event of an operation. */
  async ask<Result> (operation: string, parameters: object = {}, signal?: AbortSignal): Promise<Result> {
    let last: object = {}
    for await (const event of this.events(operation, parameters, signal)) last = event
    return last as Result
  }

  async stop (): Promise<void> {
    await this.#daemon.stop()
  }

  /** Starts it again where it was, after `stop`. */
  async start (): Promise<void> {
    this.#daemon = await startDaemon(this.home, { listen: this.#listen, threads: 1 })
  }
}

export class TestClient {
  readonly peer: TestPeer

  constructor (peer: TestPeer) {
    this.peer = peer
  }

  get home (): string { return this.peer.home }
  get peerId (): string { return this.peer.peerId }

  /** Trains, and returns the rounds that this client saw. */
  async train (parameters: TrainParameters, signal?: AbortSignal): Promise<RoundEvent[]> {
    const rounds: RoundEvent[] = []
    for await (const event of this.peer.events('train', parameters, signal))
      if ((event as RoundEvent).type === 'round') rounds.push(event as RoundEvent)
    return rounds
  }

  async evaluate (
    parameters: { readonly data: string, readonly [name: string]: unknown },
    signal?: AbortSignal
  ): Promise<EvaluationResult> {
    return await this.peer.ask<EvaluationResult>('evaluate', parameters, signal)
  }

  async generate (
    parameters: { readonly maxTokens: number, readonly [name: string]: unknown },
    signal?: AbortSignal
  ): Promise<GenerationResult> {
    return await this.peer.ask<GenerationResult>('generate', parameters, signal)
  }

  /** Exports to this directory, and reads what was written. */
  async export (out: string, more: object = {}): Promise<PeftAdapter> {
    await this.peer.ask('export', { out, force: true, ...more })
    return await readPeftAdapter(out)
  }
}

/** A server and its clients. */
export interface TestFederation {
  readonly root: string
  readonly founded: CreatedFederation
  readonly server: TestPeer
  /** A multiaddr that one can join with. */
  readonly address: string
  readonly clients: readonly TestClient[]
  /** One more client, at work; with other roles than its own where a test puts something between it and the server. */
  join (name: string, options: ClientOptions, roles?: Roles): Promise<TestClient>
  /** A path in the federation's temporary directory. */
  path (name: string): string
  stop (): Promise<void>
}

const LOOPBACK = ['/ip4/127.0.0.1/tcp/0']
const START_TIMEOUT_MS = 120_000

/** Founds a federation, starts its server, and lets its clients join and start. Stop it after use. */
export async function startFederation ({ model, charter = {}, clients, identities }: FederationOptions): Promise<TestFederation> {
  const root = await mkdtemp(join(tmpdir(), 'midspan-roles-'))
  const path = (name: string): string => join(root, name)
  const peers: TestPeer[] = []
  const signal = AbortSignal.timeout(START_TIMEOUT_MS)
  const identify = async (name: string): Promise<void> => {
    if (identities !== undefined) await writeIdentity(path(name), `${identities}/${name}`)
  }
  const stop = async (): Promise<void> => {
    for (const peer of peers.reverse()) await peer.stop()
    await rm(root, { recursive: true, force: true })
  }
  try {
    await identify('server')
    const founded = await createFederation(path('server'), { ...foundDefaults, model, ...charter }, signal)
    const server = await TestPeer.start(path('server'), LOOPBACK)
    peers.push(server)
    const address = server.daemon.status().addresses[0] ?? ''
    const join = async (name: string, options: ClientOptions, roles?: Roles): Promise<TestClient> => {
      await identify(name)
      await joinFederation(path(name), { invite: address, ...options }, AbortSignal.timeout(START_TIMEOUT_MS))
      const peer = await TestPeer.start(path(name), [], roles)
      peers.push(peer)
      return new TestClient(peer)
    }
    const joined: TestClient[] = []
    for (const [index, options] of clients.entries()) joined.push(await join(`client-${index}`, options))
    return { root, founded, server, address, clients: joined, join, path, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** The three partitions of a five-block model that tests mix: 1|3|1, 2|2|1 and 1|2|2. */
export const mixedPartitions: readonly ClientOptions[] = [{ inputBlocks: 1, outputBlocks: 1 }, { inputBlocks: 2, outputBlocks: 1 }, {
  inputBlocks: 1,
  outputBlocks: 2
}]

/** Partitions whose ends have no blocks: the embedding, the head or both alone, 0|5|0, 2|3|0 and 0|3|2. */
export const barePartitions: readonly ClientOptions[] = [{ inputBlocks: 0, outputBlocks: 0 }, { inputBlocks: 2, outputBlocks: 0 }, {
  inputBlocks: 0,
  outputBlocks: 2
}]
export const bareCharter: Partial<CreateOptions> = { inputBlocks: { min: 0, max: 2 }, outputBlocks: { min: 0, max: 2 } }

/** An adapter's tensors under Midspan's own names. */
export function adapterTensors ({ tensors }: PeftAdapter): Map<string, Tensor> {
  return new Map([...tensors].map(([name, value]) => [name.replace(/^.*?\.layers\./, '').replace(/\.weight$/, ''), value]))
}

async function writeIdentity (home: string, seed: string): Promise<void> {
  await createHome(homeAt(home))
  const key = await generateKeyPairFromSeed('Ed25519', createHash('sha256').update(seed).digest())
  await writeFile(homeAt(home).identity, privateKeyToProtobuf(key), { mode: 0o600 })
}
