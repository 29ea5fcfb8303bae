import { setTimeout as delay } from 'node:timers/promises'
import type { ResultOf } from '../../src/api/operations.ts'
import { roles } from '../../src/node/daemon/roles.ts'
import { joinAsServer } from '../../src/node/federation/join-server.ts'
import type { StartServerRole } from '../../src/roles/context.ts'
import type { Span } from '../../src/span.ts'
import { startFederation, TestPeer, type FederationOptions, type TestClient, type TestFederation } from './helpers.ts'

const LOOPBACK = ['/ip4/127.0.0.1/tcp/0']
const TIMEOUT_MS = 60_000
const LOOK_MS = 20

/** A federation whose middle is on several servers: the founder, which serves a part, and workers. */
export interface WorkersFederation extends TestFederation {
  readonly workers: readonly TestPeer[]
  /** One more worker, at work. */
  joinWorker (name: string, blocks: Span, options?: WorkerOptions): Promise<TestPeer>
}

export interface WorkerOptions {
  /** Another role than its own, where a test has it misbehave. */
  readonly role?: StartServerRole
  /** Whether it fetches the weights of its blocks, rather than has the model on its disk. */
  readonly fetches?: boolean
}

/** Starts a federation of a founder and workers, and clients that are connected to all of them. Stop it after use. */
export async function startWorkers (
  { clients, ...options }: FederationOptions,
  spans: { readonly founder: Span, readonly workers: readonly Span[] }
): Promise<WorkersFederation> {
  const { charter = {}, model } = options
  const federation = await startFederation({ ...options, charter: { ...charter, blocks: spans.founder }, clients: [] })
  const workers: TestPeer[] = []
  const joined: TestClient[] = []
  const stop = async (): Promise<void> => {
    for (const peer of workers.toReversed()) await peer.stop()
    await federation.stop()
  }
  const joinWorker = async (name: string, blocks: Span, { role, fetches = false }: WorkerOptions = {}): Promise<TestPeer> => {
    const { invite } = await federation.server.ask<ResultOf<'invite'>>('invite', { role: 'server', expiresMs: TIMEOUT_MS, uses: 1 })
    const home = federation.path(name)
    await joinAsServer(home, { invite, blocks, ...fetches ? {} : { model } }, AbortSignal.timeout(TIMEOUT_MS))
    const worker = await TestPeer.start(home, LOOPBACK, role === undefined ? undefined : { ...roles, server: role })
    workers.push(worker)
    return worker
  }
  try {
    for (const [index, blocks] of spans.workers.entries()) await joinWorker(`worker-${index}`, blocks)
    await connectedTo(federation.server, 1 + workers.length)
    for (const [index, client] of clients.entries()) joined.push(await federation.join(`client-${index}`, client))
    for (const { peer } of joined) await connectedTo(peer, 1 + workers.length)
    return { ...federation, clients: joined, workers, joinWorker, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Resolves when a peer has connections to this many servers. */
export async function connectedTo (peer: TestPeer, count: number): Promise<void> {
  const signal = AbortSignal.timeout(TIMEOUT_MS)
  for (;;) {
    const { servers } = await peer.ask<ResultOf<'servers'>>('servers')
    if (servers.filter(({ connected }) => connected).length >= count) return
    await delay(LOOK_MS, undefined, { signal })
  }
}
