import { createHash } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { Libp2p, PeerId } from '@libp2p/interface'
import { operations } from '../../../../src/api/operations.ts'
import { readPeftAdapter } from '../../../../src/model/checkpoint/peft.ts'
import { createFederation, type CreateOptions } from '../../../../src/node/federation/create.ts'
import { readMembership, type Membership } from '../../../../src/node/federation/membership.ts'
import { homeAt } from '../../../../src/node/home/home.ts'
import { startClientRole } from '../../../../src/roles/client/index.ts'
import type { KnownServer, Logger, RoleContext, RunningRole, ServerContext } from '../../../../src/roles/context.ts'
import { startServerRole } from '../../../../src/roles/server/index.ts'
import type { Span } from '../../../../src/span.ts'
import type { Tensor } from '../../../../src/tensor.ts'
import { foundDefaults } from '../../../helpers/founding.ts'
import { startTestNode } from '../../../helpers/nodes.ts'
import { adapterTensors, type ClientOptions, type RoundEvent, type TrainParameters } from '../../helpers.ts'

/** A line that a role logged. */
export interface LogLine {
  readonly details: Readonly<Record<string, unknown>>
  readonly message: string
}

/** A peer at work: its role over a real libp2p node, which knows no gate. */
export interface NetworkPeer {
  readonly peerId: PeerId
  readonly node: Libp2p
  readonly role: RunningRole
  readonly log: readonly LogLine[]
  readonly context: RoleContext
}

/**
 * The servers and clients of one federation in this process, over loopback: roles as daemons have them, and a directory that says what a
 * test says.
 */
export class TestNetwork {
  readonly #root: string
  readonly #model: string
  readonly #membership: Membership
  readonly #peers: NetworkPeer[] = []
  readonly #workers = new Map<string, { readonly peerId: PeerId, readonly span: Span, connected: boolean }>()
  readonly #listeners = new Set<() => void>()
  #coordinator: NetworkPeer | undefined

  private constructor (root: string, model: string, membership: Membership) {
    this.#root = root
    this.#model = model
    this.#membership = membership
  }

  /** Founds a federation, whose servers have `model` on their disks. Nothing runs yet. */
  static async found (root: string, model: string, charter: Partial<CreateOptions>): Promise<TestNetwork> {
    const home = join(root, 'founder')
    await createFederation(home, { ...foundDefaults, model, ...charter }, AbortSignal.timeout(60_000))
    return new TestNetwork(root, model, await readMembership(homeAt(home)))
  }

  get coordinator (): NetworkPeer {
    if (this.#coordinator === undefined) throw new Error('the coordinator was not started')
    return this.#coordinator
  }

  /** Starts the founder, with blocks of its own. */
  async startCoordinator (span: Span): Promise<NetworkPeer> {
    return this.#coordinator = await this.#server('founder', span)
  }

  /** Starts a worker, and connects it. */
  async startWorker (name: string, span: Span): Promise<NetworkPeer> {
    const peer = await this.#server(name, span)
    this.#workers.set(name, { peerId: peer.peerId, span, connected: false })
    await this.connect(name, peer)
    return peer
  }

  /** Connects a worker to the coordinator, and lists it. */
  async connect (name: string, { node }: NetworkPeer): Promise<void> {
    await node.dial(this.coordinator.node.getMultiaddrs())
    this.#list(name, true)
  }

  /** Breaks a worker's connection, in the middle of whatever goes over it. */
  cut (name: string, { node }: NetworkPeer): void {
    for (const connection of node.getConnections()) connection.abort(new Error('the network is down'))
    this.#list(name, false)
  }

  /** Starts a client. */
  async startClient (name: string, { inputBlocks = 1, outputBlocks = 1 }: ClientOptions): Promise<NetworkPeer> {
    const coordinator = this.coordinator
    const peer = await this.#peer(name, async (context) => await startClientRole({
      ...context,
      client: { partition: { inputBlocks, outputBlocks }, noise: 0, gradientNoise: 0, wire: 'fp32' },
      servers: () => [known(coordinator.peerId, undefined, true, true)],
      onServersChanged: () => () => {}
    }))
    await peer.node.dial(coordinator.node.getMultiaddrs())
    return peer
  }

  async stop (): Promise<void> {
    for (const { role, node } of this.#peers.toReversed()) {
      await role.stop()
      await node.stop()
    }
  }

  async #server (name: string, span: Span): Promise<NetworkPeer> {
    const coordinator = this.#membership.peerId
    const isFounder = name === 'founder'
    return await this.#peer(name, async (context) => await startServerRole({
      ...context,
      span,
      coordinator,
      servers: () => isFounder
        ? [...this.#workers.values()].map((worker) => known(worker.peerId, worker.span, worker.connected, false))
        : [known(coordinator, undefined, true, true)],
      onServersChanged: (listener) => {
        if (isFounder) this.#listeners.add(listener)
        return () => { this.#listeners.delete(listener) }
      }
    } satisfies ServerContext))
  }

  async #peer (name: string, start: (context: RoleContext) => Promise<RunningRole>): Promise<NetworkPeer> {
    const { key, signed } = this.#membership
    const identity = name === 'founder'
      ? key
      : await generateKeyPairFromSeed('Ed25519', createHash('sha256').update(`network/${name}`).digest())
    const node = await startTestNode({ privateKey: identity })
    const state = join(this.#root, name, 'state')
    await mkdir(state, { recursive: true })
    const log: LogLine[] = []
    const line = (details: object, message: string): void => { log.push({ details: details as LogLine['details'], message }) }
    const logger: Logger = { debug: () => {}, info: line, warn: line, error: line }
    const context: RoleContext = {
      identity,
      peerId: node.peerId,
      charter: signed.charter,
      charterHash: signed.hash,
      paths: { state, model: this.#model, adapter: homeAt(join(this.#root, 'founder')).adapter },
      settings: { device: 'cpu', threads: 1, weights: 'fp32', residuals: 'saved', residualBytes: undefined, compute: 'fp32' },
      logger,
      dial: async (peer, protocol, signal) => await node.dialProtocol(peer, protocol, { signal }),
      handle: async (protocol, handler) => {
        await node.handle(protocol, async (stream, connection) => { await handler(stream, connection.remotePeer) })
      },
      unhandle: async (protocol) => { await node.unhandle(protocol) },
      onDisconnect: () => () => {}
    }
    const peer = { peerId: node.peerId, node, log, context, role: await start(context) }
    this.#peers.push(peer)
    return peer
  }

  #list (name: string, connected: boolean): void {
    const worker = this.#workers.get(name)
    if (worker !== undefined) worker.connected = connected
    for (const listener of this.#listeners) listener()
  }
}

/** Has a client train, and returns the rounds that it saw. */
export async function train ({ role }: NetworkPeer, parameters: TrainParameters, onRound?: (round: number) => void): Promise<RoundEvent[]> {
  const rounds: RoundEvent[] = []
  const checked = operations.train.parameters.parse(parameters)
  for await (const event of role.operations.train!(checked, AbortSignal.timeout(120_000))) {
    if (event.type !== 'round') continue
    rounds.push(event as RoundEvent)
    onRound?.(event.round)
  }
  return rounds
}

/** The adapters that a client holds or gets from the server. */
export async function adaptersOf ({ role }: NetworkPeer, out: string): Promise<Map<string, Tensor>> {
  const checked = operations.export.parameters.parse({ out, force: true })
  for await (const _ of role.operations.export!(checked, AbortSignal.timeout(60_000)));
  return adapterTensors(await readPeftAdapter(out))
}

function known (peerId: PeerId, span: Span | undefined, connected: boolean, isCoordinator: boolean): KnownServer {
  return { peerId, connected, isCoordinator, span, load: undefined, roundTripMs: undefined }
}
