import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { UsageError } from '../../errors.ts'
import type { ExpectedModel } from '../../model/checkpoint/store.ts'
import type { WeightFormat } from '../../model/layers/weight-format.ts'
import { protocolId, verifyCharter, type Charter } from '../../protocols/charter/index.ts'
import { servableSpan } from '../../roles/charter-settings.ts'
import { parseSpan, spanText, type Span } from '../../span.ts'
import { HomeInUseError, homeAt, replaceFile, type Home } from '../home/home.ts'
import { loadOrCreateIdentity } from '../home/identity.ts'
import { withHome } from '../home/lock.ts'
import { readConfig, updateConfig } from '../home/settings.ts'
import { createMidspanNode } from '../network/libp2p.ts'
import { serverMemory } from './block-memory.ts'
import {
  askDirectory,
  fetchModel,
  introduce,
  openAtWorker,
  readTarget,
  updateServers,
  type FetchedModel,
  type FetchEvent,
  type NoticeEvent
} from './introduction.ts'
import { forgetMove } from './move.ts'
import { placeServer } from './placement.ts'
import { expectedModel, tensorsOfSpan } from './servable-weights.ts'
import { servedSpan } from './served-span.ts'
import { checkDirectory, weightsToFetch, workersWith, type CheckEvent } from './span-weights.ts'

/** The options of `midspan join` for a server. */
export interface JoinServerOptions {
  /** A server invite's line, or the multiaddr of a server that has this peer on its allow-list. */
  readonly invite: string
  /**
   * The blocks to serve, or `auto`: those within `memoryBytes` that the federation lacks most. Those of the home where it has joined
   * before, unless given.
   */
  readonly blocks?: Span | 'auto' | undefined
  /** Device memory that the server may use: with `auto` alone. */
  readonly memoryBytes?: number | undefined
  /** What the device keeps frozen matrices as; what the home's settings say, unless given. */
  readonly weights?: WeightFormat | undefined
  /** A Hugging Face model directory. Without one, the weights of the blocks are fetched into the home. */
  readonly model?: string | undefined
}

export type JoinServerEvent =
  | { readonly type: 'charter', readonly federation: { readonly id: string, readonly name: string }, readonly server: string }
  | CheckEvent
  | FetchEvent
  | NoticeEvent

/** What joining came to, with what of the model is here now. */
export interface JoinedServer extends FetchedModel {
  readonly home: string
  readonly peerId: string
  readonly server: string
  readonly federation: { readonly id: string, readonly name: string }
  /** Whether the home had joined this federation before. */
  readonly updated: boolean
  /** The blocks that it serves. */
  readonly span: Span
  /** Blocks of the model. */
  readonly blocks: number
  /** Where its weights are. */
  readonly model: string
}

/**
 * Joins a federation as a server of some blocks and makes `root` its home. The weights are fetched, or found in a model directory, and
 * each of their bytes is checked against the charter. Interrupted, it goes on where it was when it is called again. In a home that has
 * joined this federation already it updates where the founder's server is found, and the blocks and the model that are given. Throws
 * HomeInUseError for a home of another federation or of a client, and UsageError.
 */
export async function joinAsServer (
  root: string,
  options: JoinServerOptions,
  signal: AbortSignal,
  onEvent: (event: JoinServerEvent) => void = () => {}
): Promise<JoinedServer> {
  const target = await readTarget(options.invite)
  if (target.invite?.role === 'client')
    throw new UsageError(
      'the invite is for a client, which serves no blocks',
      'leave out --blocks, or ask for an invite that was made with --role server'
    )
  const home = homeAt(root)
  return await withHome(home, async (charterBytes) => {
    const joined = charterBytes === undefined ? undefined : await verifyCharter(charterBytes)
    const key = await loadOrCreateIdentity(home.identity)
    const peerId = peerIdFromPrivateKey(key).toString()
    if (joined !== undefined && (target.invite?.federation ?? joined.id) !== joined.id) throw new HomeInUseError(home.root)
    if (joined?.charter.founder === peerId) throw new HomeInUseError(home.root)
    const wanted = await keptOptions(home, joined !== undefined, options)
    const node = await createMidspanNode({ privateKey: key, role: 'server', listen: [] })
    try {
      await node.start()
      const signed = await introduce(node, target, 'server', onEvent, signal)
      if (joined !== undefined && signed.id !== joined.id) throw new HomeInUseError(home.root)
      const { charter } = signed
      const federation = { id: signed.id, name: charter.name }
      onEvent({ type: 'charter', federation, server: target.server.toString() })
      const { entries, certificate } = await askDirectory(node, target, { federation: signed.id, middle: servableSpan(charter) }, signal)
      const others = entries.filter(({ peer }) => peer !== peerId)
      const blocks = wanted.blocks === 'auto' ? placed(charter, wanted, others.map(({ span }) => span)) : wanted.blocks
      const span = servedSpan(charter, blocks)
      const expected = expectedModel(charter, tensorsOfSpan(charter, span))
      const toFetch = weightsToFetch(charter, span, wanted.model)
      if (wanted.model !== undefined) await checkDirectory(wanted.model, charter, span, onEvent, signal)
      const sources = certificate === undefined ? [] : workersWith(span, charter, others).map(({ announcement, held }) => ({
        name: announcement.peer,
        has: ({ name }: { readonly name: string }) => held.has(name),
        open: async (signal: AbortSignal) =>
          await openAtWorker(node, announcement, { role: 'server', federation: signed.hash, certificate }, protocolId('weights'), signal)
      }))
      const { fetchedBytes } = Object.keys(toFetch.tensors).length === 0
        ? { fetchedBytes: 0 }
        : await fetchModel(node, target, 'server', toFetch, home.model, sources, onEvent, signal)
      await updateServers(home, target)
      // What a server of before was asked, if anything, was about its blocks of before.
      await forgetMove(home)
      await updateConfig(home, {
        role: 'server', blocks: spanText(blocks), memory: wanted.memoryBytes, model: wanted.model, weights: wanted.weights
      })
      // The charter is written last: with it the home belongs to the federation.
      if (joined === undefined) await replaceFile(home.charter, signed.bytes)
      return {
        home: home.root,
        peerId,
        server: target.server.toString(),
        federation,
        updated: joined !== undefined,
        span,
        blocks: charter.model.blocks,
        model: wanted.model ?? home.model,
        files: Object.keys(expected.files),
        tensors: Object.keys(expected.tensors).length,
        tensorBytes: bytesOf(expected),
        fetchedBytes
      }
    } finally {
      await node.stop()
    }
  })
}

/** The blocks and the model that are given, or those of a home that has joined before. Throws UsageError where no blocks are known. */
async function keptOptions (
  home: Home,
  hasJoined: boolean,
  { blocks, memoryBytes, model, weights }: JoinServerOptions
): Promise<Wanted> {
  const config = hasJoined ? await readConfig(home.config) : {}
  if (config.role === 'client') throw new HomeInUseError(home.root)
  const wanted = blocks ?? parseSpan(config.blocks ?? '')
  if (wanted === undefined)
    throw new UsageError(
      'which blocks this server serves is not said',
      'name them with --blocks FIRST-END, or give --blocks auto --memory SIZE'
    )
  if (wanted === 'auto' && memoryBytes === undefined)
    throw new UsageError('how much memory the server may use is not said', 'give --memory SIZE, such as --memory 12GiB')
  if (wanted !== 'auto' && memoryBytes !== undefined)
    throw new UsageError('the memory decides nothing where the blocks are named', 'leave out --memory, or give --blocks auto')
  // A server that chose its blocks by itself goes on doing so.
  const kept = blocks === undefined ? config.memory : undefined
  return { blocks: wanted, memoryBytes: memoryBytes ?? kept, model: model ?? config.model, weights: weights ?? config.weights }
}

/** Chooses the blocks that the federation lacks most within the memory. Throws UsageError where not one block fits. */
function placed (charter: Charter, { memoryBytes = Infinity, weights = 'fp32' }: Wanted, others: readonly Span[]): Span {
  const middle = servableSpan(charter)
  const memory = serverMemory(charter, { format: weights, residuals: 'saved' })
  const span = placeServer(middle, { ...memory, memoryBytes }, others)
  if (span !== undefined) return span
  const leastMiB = Math.ceil((memory.fixedBytes + Math.min(...memory.blockBytes)) / 2 ** 20)
  throw new UsageError(
    `the memory is too small for one block, which takes ${leastMiB} MiB with its caches and activations in ${weights}`,
    'give more with --memory, or a smaller format with --weights'
  )
}

interface Wanted {
  readonly blocks: Span | 'auto'
  /** Undefined where the blocks are named. */
  readonly memoryBytes: number | undefined
  readonly model: string | undefined
  readonly weights: WeightFormat | undefined
}

function bytesOf ({ tensors }: ExpectedModel): number {
  return Object.values(tensors).reduce((sum, { bytes }) => sum + bytes, 0)
}
