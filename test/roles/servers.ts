import type { ResultOf } from '../../src/api/operations.ts'
import { roles as usualRoles, type Roles } from '../../src/node/daemon/roles.ts'
import { joinAsServer } from '../../src/node/federation/join-server.ts'
import type { StartServerRole } from '../../src/roles/context.ts'
import type { Span } from '../../src/span.ts'
import { startFederation, TestPeer, type FederationOptions, type TestFederation } from './helpers.ts'

const LOOPBACK = ['/ip4/127.0.0.1/tcp/0']
const JOIN_TIMEOUT_MS = 60_000

/** A federation whose middle is on several servers: the founder, which leads, and workers. */
export interface ServersFederation extends TestFederation {
  readonly workers: readonly TestPeer[]
  /** One more worker, at work and known to the founder; with another role than its own where a test wants it to misbehave. */
  joinWorker (name: string, span: Span, role?: StartServerRole): Promise<TestPeer>
}

export interface ServersOptions extends FederationOptions {
  /** The founder's own blocks. */
  readonly founder: Span
  readonly spans: readonly Span[]
}

/** Starts a founder and workers that join it as people have them join, then clients. Stop the federation after use. */
export async function startServers ({ founder, spans, clients, ...options }: ServersOptions): Promise<ServersFederation> {
  const federation = await startFederation({ ...options, charter: { ...options.charter, blocks: founder }, clients: [] })
  const workers: TestPeer[] = []
  const stop = async (): Promise<void> => {
    for (const worker of workers.toReversed()) await worker.stop()
    await federation.stop()
  }
  const joinWorker = async (name: string, span: Span, role?: StartServerRole): Promise<TestPeer> => {
    const home = federation.path(name)
    const { invite } = await federation.server.ask<ResultOf<'invite'>>('invite', { role: 'server', expiresMs: JOIN_TIMEOUT_MS, uses: 1 })
    await joinAsServer(home, { invite, blocks: span }, AbortSignal.timeout(JOIN_TIMEOUT_MS))
    const roles: Roles = role === undefined ? usualRoles : { ...usualRoles, server: role }
    const worker = await TestPeer.start(home, LOOPBACK, roles)
    workers.push(worker)
    await isKnown(federation.server, worker)
    return worker
  }
  try {
    for (const [index, span] of spans.entries()) await joinWorker(`worker-${index}`, span)
    const joined = []
    for (const [index, client] of clients.entries()) joined.push(await federation.join(`client-${index}`, client))
    return { ...federation, clients: joined, workers, joinWorker, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Resolves when a server is connected to another one, which knows its blocks. */
async function isKnown (server: TestPeer, worker: TestPeer): Promise<void> {
  const limit = AbortSignal.timeout(JOIN_TIMEOUT_MS)
  for (;;) {
    const { servers } = await server.ask<ResultOf<'servers'>>('servers', {}, limit)
    if (servers.some(({ peerId, connected, blocks }) => peerId === worker.peerId && connected && blocks !== null)) return
    await new Promise((resolve) => { setTimeout(resolve, 20) })
  }
}
