import { cp, mkdir } from 'node:fs/promises'
import { basename } from 'node:path'
import { roles, type Roles } from '../../src/node/daemon/roles.ts'
import { joinFederation } from '../../src/node/federation/join.ts'
import { readServers, writeServers } from '../../src/node/federation/membership.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { loadOrCreateIdentity } from '../../src/node/home/identity.ts'
import type { KnownServer } from '../../src/roles/context.ts'
import type { Span } from '../../src/span.ts'
import { startFederation, TestClient, TestPeer, type ClientOptions, type FederationOptions, type TestFederation } from './helpers.ts'

const LOOPBACK = ['/ip4/127.0.0.1/tcp/0']
const JOIN_TIMEOUT_MS = 60_000

/** A federation whose middle is on several servers: the founder, which serves everything or a part, and workers. */
export interface WorkersFederation extends Omit<TestFederation, 'join'> {
  readonly workers: readonly TestPeer[]
}

/** Starts a federation of a founder and workers, and clients that know all of them. Stop it after use. */
export async function startWorkers (
  { clients, ...options }: FederationOptions,
  spans: { readonly founder: Span, readonly workers: readonly Span[] }
): Promise<WorkersFederation> {
  const federation = await startFederation({ ...options, clients: [], roles: serving(spans.founder) })
  const peers: TestPeer[] = []
  const stop = async (): Promise<void> => {
    for (const peer of peers.reverse()) await peer.stop()
    await federation.stop()
  }
  try {
    const workers: TestPeer[] = []
    for (const [index, span] of spans.workers.entries()) {
      const home = federation.path(`worker-${index}`)
      await mkdir(home)
      await cp(federation.server.home, home, {
        recursive: true,
        filter: (path) => !['identity.key', 'daemon.lock', 'run', 'daemon.log'].includes(basename(path))
      })
      await loadOrCreateIdentity(homeAt(home).identity)
      const worker = await TestPeer.start(home, LOOPBACK, serving(span))
      workers.push(worker)
      peers.push(worker)
    }
    const served = new Map([
      [federation.server.peerId, spans.founder] as const,
      ...workers.map(({ peerId }, i) => [peerId, spans.workers[i]!] as const)
    ])
    const joined: TestClient[] = []
    for (const [index, client] of clients.entries()) {
      const home = federation.path(`client-${index}`)
      await join(home, federation.address, client, workers)
      const peer = await TestPeer.start(home, [], knowing(served))
      joined.push(new TestClient(peer))
      peers.push(peer)
    }
    return { ...federation, clients: joined, workers, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function join (home: string, invite: string, options: ClientOptions, workers: readonly TestPeer[]): Promise<void> {
  await joinFederation(home, { invite, ...options }, AbortSignal.timeout(JOIN_TIMEOUT_MS))
  await writeServers(homeAt(home), [
    ...await readServers(homeAt(home)),
    ...workers.map(({ peerId, daemon }) => ({ peerId, addresses: daemon.node.getMultiaddrs().map((address) => address.toString()) }))
  ])
}

/** Roles of a server that serves a part. */
function serving (span: Span): Roles {
  return { ...roles, server: async (context) => await roles.server({ ...context, span }) }
}

/** Roles of a client that knows what each server serves. */
function knowing (served: ReadonlyMap<string, Span>): Roles {
  return {
    ...roles,
    client: async (context) =>
      await roles.client({
        ...context,
        servers: (): KnownServer[] => context.servers().map((server) => ({ ...server, span: served.get(server.peerId.toString()) }))
      })
  }
}
