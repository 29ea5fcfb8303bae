import type { Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import type { ParametersOf, ResultOf } from '../../api/operations.ts'
import { MidspanError, UsageError } from '../../errors.ts'
import type { ExpectedModel } from '../../model/checkpoint/store.ts'
import { describeNoiseCost, noiseCost } from '../../model/privacy/noise-cost.ts'
import { checkClientSettings, protocolId, type Charter, type ClientSettings, type Partition } from '../../protocols/charter/index.ts'
import { fetchPieces } from '../../protocols/weights/index.ts'
import { announcePartition, checkLosses, noteOnChange, readClientProgress } from '../../roles/client/partition-progress.ts'
import { homeAt, type Home } from '../home/home.ts'
import { withHome } from '../home/lock.ts'
import { readConfig, updateConfig } from '../home/settings.ts'
import { createMidspanNode, type MidspanNode } from '../network/libp2p.ts'
import { introduce, open, openStore, type FetchEvent, type Target } from './introduction.ts'
import { resolveClientSettings } from './join.ts'
import { readMembership, readServers } from './membership.ts'
import { expectedModel, tensorsOfEnds } from './servable-weights.ts'

/** What `midspan partition` asks for. */
export type PartitionOptions = Pick<ParametersOf<'partition'>, 'inputBlocks' | 'outputBlocks' | 'discard'>

export type PartitionResult = ResultOf<'partition'>

/** Thrown when no server sent the weights of blocks that a client is to hold. */
export class NoWeightsError extends MidspanError {
  constructor (cause?: unknown) {
    super('E_NO_SERVER', `no server sent the weights of the new blocks${cause instanceof Error ? `: ${cause.message}` : ''}`, {
      next: 'nothing has changed; see `midspan servers` and run it again, which goes on where this stopped', retryable: true, cause
    })
  }
}

/**
 * Returns a client's settings with another partition. Throws UsageError where the partition is the one that it has, and SettingRefusedError
 * for one that the charter does not allow.
 */
export function withPartition (
  charter: Charter,
  settings: ClientSettings,
  { inputBlocks, outputBlocks }: Pick<PartitionOptions, 'inputBlocks' | 'outputBlocks'>
): ClientSettings {
  const { partition } = settings
  const changed = {
    ...settings,
    partition: { inputBlocks: inputBlocks ?? partition.inputBlocks, outputBlocks: outputBlocks ?? partition.outputBlocks }
  }
  if (changed.partition.inputBlocks === partition.inputBlocks && changed.partition.outputBlocks === partition.outputBlocks)
    throw new UsageError(
      `this client holds ${partition.inputBlocks} input and ${partition.outputBlocks} output blocks already`,
      'give another --input-blocks or --output-blocks'
    )
  checkClientSettings(charter, changed)
  return changed
}

/** Says what a client's noise on hidden states costs at its cut; null where the charter has no measurements. */
export function noiseCostOf (charter: Charter, { partition, noise }: ClientSettings): string | null {
  const cost = noiseCost(charter.privacy.losses, partition.inputBlocks, noise)
  return cost === undefined ? null : describeNoiseCost(cost)
}

/** A server that weights may come from. */
export interface WeightServer {
  /** Opens a stream of the weights protocol. */
  open (signal: AbortSignal): Promise<Stream>
}

/**
 * Fetches what a home lacks of the weights of a new partition, beside those of the one that it has: either can be started with. What it has
 * of other blocks goes. Resolves with the bytes that came. Throws NoWeightsError, and ModelStoreError.
 */
export async function fetchBoth (
  home: Home,
  charter: Charter,
  [before, after]: readonly [Partition, Partition],
  servers: () => Promise<readonly WeightServer[]>,
  onEvent: (event: FetchEvent) => void,
  signal: AbortSignal
): Promise<number> {
  const names = new Set([...tensorsOfEnds(charter, before), ...tensorsOfEnds(charter, after)])
  const store = await openStore(home.model, expectedModel(charter, [...names]), signal)
  const totalBytes = store.pending().reduce((sum, { bytes, offset }) => sum + bytes - offset, 0)
  let doneBytes = 0
  let failure: unknown
  for (const server of store.complete ? [] : await servers()) {
    try {
      await fetchPieces(store, {
        open: async (inner) => await server.open(inner),
        onProgress: (bytes) => {
          doneBytes += bytes
          onEvent({ type: 'fetch', totalBytes, doneBytes })
        }
      }, signal)
      break
    } catch (error) {
      signal.throwIfAborted()
      failure = error
    }
  }
  if (!store.complete) throw new NoWeightsError(failure)
  await store.finish()
  return doneBytes
}

/** Removes the weights of blocks that a client does not hold any more. Resolves with what it holds. */
export async function pruneWeights (
  home: Home,
  charter: Charter,
  partition: Partition
): Promise<Pick<PartitionResult, 'tensors' | 'tensorBytes'>> {
  const expected: ExpectedModel = expectedModel(charter, tensorsOfEnds(charter, partition))
  const store = await openStore(home.model, expected)
  await store.finish()
  const prints = Object.values(expected.tensors)
  return { tensors: prints.length, tensorBytes: prints.reduce((sum, { bytes }) => sum + bytes, 0) }
}

/** Changes the partition of a client whose daemon does not run. Throws as `fetchBoth`, `withPartition` and `readMembership` do. */
export async function changePartition (
  root: string,
  options: PartitionOptions,
  signal: AbortSignal,
  onEvent: (event: FetchEvent) => void = () => {}
): Promise<PartitionResult> {
  const home = homeAt(root)
  const { key, signed: { charter, hash } } = await readMembership(home)
  return await withHome(home, async () => {
    const config = await readConfig(home.config)
    if (config.role !== 'client')
      throw new UsageError(`${home.root} is not a client's`, 'servers choose their blocks with: midspan join --blocks')
    const before = resolveClientSettings(charter, config)
    const after = withPartition(charter, before, options)
    const { partition } = after
    const progress = await readClientProgress(home.state, hash, charter, before.partition)
    checkLosses(charter, progress?.meta, partition, options.discard)
    const node = await createMidspanNode({ privateKey: key, role: 'client', listen: [] })
    let fetchedBytes: number
    try {
      const servers = async (): Promise<WeightServer[]> => {
        await node.start()
        return (await readServers(home)).map(({ peerId, addresses }) =>
          asMember(node, { server: peerIdFromString(peerId), addresses: addresses.map((address) => multiaddr(address)) }))
      }
      fetchedBytes = await fetchBoth(home, charter, [before.partition, partition], servers, onEvent, signal)
    } finally {
      await node.stop()
    }
    // Once the settings say so, the home has the new partition, whatever happens.
    if (progress !== undefined) await announcePartition(home.state, progress, partition)
    await updateConfig(home, { ...partition })
    const held = await pruneWeights(home, charter, partition)
    return {
      type: 'done',
      before: before.partition,
      partition,
      blocks: charter.model.blocks,
      ...held,
      fetchedBytes,
      noiseCost: noiseCostOf(charter, after),
      note: noteOnChange(charter, progress?.meta, before.partition, partition)
    }
  })
}

/** A server at which this peer introduces itself as the member that it is. */
function asMember (node: MidspanNode, { server, addresses }: Omit<Target, 'invite'>): WeightServer {
  return {
    open: async (signal) => {
      const target: Target = { server, addresses, invite: undefined }
      if (node.getConnections(server).length === 0) await introduce(node, target, 'client', () => {}, signal)
      return await open(node, target, protocolId('weights'), signal)
    }
  }
}
