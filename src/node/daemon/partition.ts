import type { EventOf, Operation, ParametersOf } from '../../api/operations.ts'
import { protocolId, type ClientSettings } from '../../protocols/charter/index.ts'
import { PartitionBusyError } from '../../roles/client/current-client.ts'
import type { PartitionChanges } from '../../roles/context.ts'
import type { FetchEvent } from '../federation/introduction.ts'
import type { Membership } from '../federation/membership.ts'
import { fetchBoth, noiseCostOf, NoWeightsError, pruneWeights, withPartition, type WeightServer } from '../federation/partition.ts'
import type { Home } from '../home/home.ts'
import { updateConfig } from '../home/settings.ts'
import type { Gate } from '../network/gate.ts'
import type { ServerLinks } from '../network/server-links.ts'
import type { KnownServers } from './known-servers.ts'
import { saysWaits } from './server-waits.ts'

/** A daemon's parts in a change of its client's partition. */
export interface ChangingDaemon {
  readonly home: Home
  readonly gate: Gate
  readonly links: ServerLinks
  readonly known: KnownServers
  readonly membership: Membership
}

/** The client's part in it. */
export interface ChangingClient {
  readonly changes: PartitionChanges
  readonly client: { settings: ClientSettings }
}

type PartitionEvent = EventOf<'partition'>

/** How long nothing happens before the operation says what it waits for. */
const QUIET_MS = 5_000

/** Returns the operation that changes the partition of a running client, one change at a time. */
export function partitionOperation (daemon: ChangingDaemon, changing: ChangingClient): Operation<'partition'> {
  let isBusy = false
  return async function * (parameters, signal) {
    if (isBusy) throw new PartitionBusyError()
    isBusy = true
    try {
      yield * changePartition(daemon, changing, parameters, signal)
    } finally {
      isBusy = false
    }
  }
}

async function * changePartition (
  { home, gate, links, known, membership: { signed: { charter } } }: ChangingDaemon,
  { changes, client }: ChangingClient,
  { timeoutMs, ...options }: ParametersOf<'partition'>,
  signal: AbortSignal
): AsyncGenerator<PartitionEvent> {
  const before = client.settings
  const after = withPartition(charter, before, options)
  changes.check(after.partition, options.discard)
  const servers = async (): Promise<WeightServer[]> => {
    const all = known.servers().filter(({ connected }) => connected).sort((a, b) => Number(b.isCoordinator) - Number(a.isCoordinator))
    if (all.length === 0) throw new NoWeightsError(links.failure())
    return all.map(({ peerId }) => ({ open: async (inner) => await gate.dial(peerId, protocolId('weights'), inner) }))
  }
  let local: string | undefined
  yield * saysWaits<'partition'>('partition', async function * (inner) {
    let fetchedBytes = 0
    yield * whileFetching(async (onEvent) => {
      fetchedBytes = await fetchBoth(home, charter, [before.partition, after.partition], servers, onEvent, inner)
    })
    local = 'the round in progress, and texts and exports under way, end first'
    await changes.change(after, async () => {
      await updateConfig(home, { ...after.partition })
      client.settings = after
    }, inner)
    const held = await pruneWeights(home, charter, after.partition)
    yield {
      type: 'done',
      before: before.partition,
      partition: after.partition,
      blocks: charter.model.blocks,
      ...held,
      fetchedBytes,
      noiseCost: noiseCostOf(charter, after),
      note: changes.note(before.partition, after.partition)
    }
  }, { links, local: () => local, quietMs: QUIET_MS, timeoutMs }, signal)
}

/** Yields what a fetch tells, until it is done: the newest of what came meanwhile. */
async function * whileFetching (fetch: (onEvent: (event: FetchEvent) => void) => Promise<void>): AsyncGenerator<FetchEvent> {
  let newest: FetchEvent | undefined
  let told = Promise.withResolvers<void>()
  let isOver = false
  const fetching = fetch((event) => {
    newest = event
    told.resolve()
  }).finally(() => {
    isOver = true
    told.resolve()
  })
  fetching.catch(() => {}) // thrown below
  while (!isOver || newest !== undefined) {
    await told.promise
    told = Promise.withResolvers()
    const event = newest
    newest = undefined
    if (event !== undefined) yield event
  }
  await fetching
}
