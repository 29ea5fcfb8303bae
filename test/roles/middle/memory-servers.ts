import { setTimeout as delay } from 'node:timers/promises'
import type { PeerId, PrivateKey, Stream } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import { UnreachableError } from '../../../src/node/network/dial.ts'
import type { Charter } from '../../../src/protocols/charter/schema.ts'
import { HANDOVER_PROTOCOL } from '../../../src/protocols/handover/constants.ts'
import { LeftOutServers } from '../../../src/roles/client/left-out.ts'
import { generationRoute } from '../../../src/roles/client/server-route.ts'
import { ClientSessions } from '../../../src/roles/client/sessions.ts'
import type { ClientContext, KnownServer, Logger, ProtocolHandler, ServerContext } from '../../../src/roles/context.ts'
import { RouteStatistics } from '../../../src/roles/middle/route-statistics.ts'
import type { StageCache } from '../../../src/roles/middle/stage.ts'
import { Handovers } from '../../../src/roles/server/generation/handovers.ts'
import { serveSequences } from '../../../src/roles/server/generation/serving.ts'
import type { GenerationComponents } from '../../../src/roles/server/generation/session.ts'
import { Sessions, StoppingError } from '../../../src/roles/server/sessions.ts'
import type { Span } from '../../../src/span.ts'
import { charter as charterHash, identityOf } from '../../helpers/channels.ts'
import { CountingServer } from './counting-stage.ts'

const BLOCKS = 8

/** What generation looks at of a charter: models of eight blocks with one value a token. */
export const charter = {
  wire: 'fp32',
  model: { hidden: 1, blocks: BLOCKS },
  training: { roundDeadlineMs: 1_000 },
  limits: { maxSequenceTokens: 64, maxSessionsPerClient: 8 }
} as Charter

export const MIDDLE = { first: 1, end: BLOCKS - 1 }

const silent: Logger = { debug () {}, info () {}, warn () {}, error () {} }

interface Handled {
  readonly handler: ProtocolHandler
  readonly maxInboundStreams: number
}

interface OpenStream {
  readonly from: string
  readonly protocol: string
  readonly stream: Stream
}

/** One peer of a network in memory. */
interface Peer {
  readonly identity: PrivateKey
  readonly peerId: PeerId
}

/** A server of counting blocks with Midspan's own sessions, whose streams are in memory. */
export class MemoryServer extends CountingServer {
  readonly peerId: PeerId
  readonly handled = new Map<string, Handled>()
  /** Streams that others opened to it. */
  readonly streams = new Set<OpenStream>()
  readonly stopping = new AbortController()
  /** Whether it can be reached. */
  connected = true
  /** Whether it takes what is sent to it and says nothing, as a process that was stopped. */
  frozen = false

  constructor (peerId: PeerId, span: Span) {
    super(peerId.toString(), span)
    this.peerId = peerId
  }

  /** Streams that other servers hand sequences over by. */
  get handovers (): number {
    return [...this.streams].filter(({ protocol }) => protocol === HANDOVER_PROTOCOL).length
  }
}

/** A client of such a network. */
export interface MemoryClient extends Peer {
  readonly leftOut: LeftOutServers
  readonly statistics: RouteStatistics
  /** Opens a sequence over the whole middle. The caller closes it. */
  open (options?: { readonly handOver?: boolean, readonly leastStallMs?: number }): Promise<StageCache>
  dial (server: MemoryServer, protocol: string): Promise<Stream>
}

/** Peers that reach one another in memory: the streams and the blocks are a test's, all between them is Midspan's. */
export class MemoryNetwork {
  readonly servers: MemoryServer[] = []
  readonly #listeners = new Set<() => void>()
  /** The pairs of which the first has no way to the second. */
  readonly #cut = new Set<string>()
  #peers = 0

  /** Starts a network of servers, the coordinator first. */
  static async of (spans: ReadonlyArray<readonly [first: number, end: number]>, options: ServerOptions = {}): Promise<MemoryNetwork> {
    const network = new MemoryNetwork()
    for (const [first, end] of spans) await network.addServer({ first, end }, options)
    return network
  }

  async addServer (span: Span, { idleTimeoutMs = 60_000, claimTimeoutMs }: ServerOptions = {}): Promise<MemoryServer> {
    const { identity, peerId } = await this.#peer()
    const server = new MemoryServer(peerId, span)
    const context: Partial<ServerContext> = {
      ...this.#context({ identity, peerId }),
      handle: async (protocol, handler, { maxInboundStreams = 4 } = {}) => {
        server.handled.set(protocol, { handler, maxInboundStreams })
        await Promise.resolve()
      }
    }
    const sessions = new Sessions(context as ServerContext, server.stopping.signal)
    const components: Partial<GenerationComponents> = {
      charter,
      model: { prompts: undefined, windows: [], rotary: {} } as unknown as GenerationComponents['model'],
      engine: {
        open: async (_id, _client, span, capacity) => {
          const cache = await server.openCache(span, capacity)
          return {
            get length () { return cache.length },
            capacity,
            holds: () => true,
            rewind: (position) => { cache.rewind(position) },
            forward: async (states, signal) => await cache.forward(states, signal),
            close: async () => { await cache.close() }
          }
        }
      },
      span,
      arithmetic: { weights: 'fp32', device: 'cpu', compute: 'fp32' },
      adapters: { round: 0 },
      ready: async () => {},
      handovers: new Handovers(context as ServerContext, claimTimeoutMs === undefined ? {} : { timeoutMs: claimTimeoutMs }),
      idleTimeoutMs,
      weightOf: () => 1
    }
    await serveSequences(sessions, components as GenerationComponents)
    this.servers.push(server)
    return server
  }

  async addClient (): Promise<MemoryClient> {
    const peer = await this.#peer()
    const partial: Partial<ClientContext> = {
      ...this.#context(peer),
      client: { partition: { inputBlocks: MIDDLE.first, outputBlocks: BLOCKS - MIDDLE.end }, noise: 0, gradientNoise: 0, wire: 'fp32' }
    }
    const context = partial as ClientContext
    const leftOut = new LeftOutServers(context)
    const statistics = new RouteStatistics()
    const components = { context, leftOut, caught: { has: () => false }, sessions: new ClientSessions(context), adapters: { round: 0 } }
    return {
      ...peer,
      leftOut,
      statistics,
      open: async ({ handOver = true, ...options } = {}) =>
        await generationRoute(components, { handOver, timeoutMs: 10_000, statistics, ...options })
          .openCache(MIDDLE, charter.limits.maxSequenceTokens),
      dial: async (server, protocol) => await context.dial(server.peerId, protocol, AbortSignal.timeout(10_000))
    }
  }

  /** Leaves one server without a way to another. */
  cut (from: MemoryServer, to: MemoryServer): void {
    this.#cut.add(`${from.id} ${to.id}`)
  }

  /** Ends a server as a killed process ends. */
  kill (server: MemoryServer): void {
    server.connected = false
    for (const { stream } of server.streams) stream.abort(new Error('the process is gone'))
    server.stopping.abort(new StoppingError())
    this.#changed()
  }

  async #peer (): Promise<Peer> {
    const identity = await identityOf(++this.#peers)
    return { identity, peerId: peerIdFromPrivateKey(identity) }
  }

  #context (self: Peer) {
    return {
      ...self,
      charter,
      charterHash,
      logger: silent,
      servers: (): KnownServer[] =>
        this.servers.filter(({ peerId }) => !peerId.equals(self.peerId)).map(({ peerId, connected, span }, index) => ({
          peerId, connected, span, isCoordinator: index === 0, load: undefined, roundTripMs: undefined
        })),
      onServersChanged: (listener: () => void) => {
        this.#listeners.add(listener)
        return () => { this.#listeners.delete(listener) }
      },
      dial: async (peerId: PeerId, protocol: string): Promise<Stream> => await this.#dial(self.peerId, peerId, protocol)
    }
  }

  async #dial (self: PeerId, peerId: PeerId, protocol: string): Promise<Stream> {
    const from = self.toString()
    const server = this.servers.find((other) => other.peerId.equals(peerId))
    const handled = server?.handled.get(protocol)
    if (server?.connected !== true || handled === undefined || this.#cut.has(`${from} ${server.id}`)) throw new UnreachableError(peerId.toString())
    const [outbound, inbound] = await streamPair({ protocol })
    const opened = { from, protocol, stream: inbound }
    const others = [...server.streams].filter((other) => other.from === from && other.protocol === protocol).length
    if (server.frozen) return outbound
    if (others >= handled.maxInboundStreams) {
      inbound.abort(new Error('too many streams'))
      await delay(1)
      return outbound
    }
    server.streams.add(opened)
    inbound.addEventListener('close', () => { server.streams.delete(opened) }, { once: true })
    void Promise.resolve(handled.handler(inbound, self)).catch((error: unknown) => { inbound.abort(error as Error) })
    return outbound
  }

  #changed (): void {
    for (const listener of this.#listeners) listener()
  }
}

export interface ServerOptions {
  readonly idleTimeoutMs?: number
  readonly claimTimeoutMs?: number
}
