import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { UsageError } from '../../errors.ts'
import type { WeightFormat } from '../../model/layers/weight-format.ts'
import { noiseCost, type NoiseCost } from '../../model/privacy/noise-cost.ts'
import { type Charter, checkClientSettings, type ClientSettings, verifyCharter } from '../../protocols/charter/index.ts'
import { HomeInUseError, homeAt, replaceFile, type Home } from '../home/home.ts'
import { loadOrCreateIdentity } from '../home/identity.ts'
import { withHome } from '../home/lock.ts'
import { readConfig, updateConfig } from '../home/settings.ts'
import { createMidspanNode } from '../network/libp2p.ts'
import { fetchModel, introduce, readTarget, updateServers, type FetchedModel, type FetchEvent, type NoticeEvent } from './introduction.ts'
import { expectedModel, tensorsOfEnds } from './servable-weights.ts'

/** The options of `midspan join` for a client. */
export interface JoinOptions {
  /** An invite's line, or a server's multiaddr with its `/p2p/` part. */
  readonly invite: string
  /** The fewest that the charter allows, unless given. */
  readonly inputBlocks?: number | undefined
  readonly outputBlocks?: number | undefined
  /** The charter's floor, unless given. */
  readonly noise?: number | undefined
  readonly gradientNoise?: number | undefined
  /** Whether the residual stream stays here; where noise or a clip changes what leaves, unless given. */
  readonly keepStream?: boolean | undefined
  /** What the device keeps frozen matrices as; what the home's settings say, unless given. */
  readonly weights?: WeightFormat | undefined
}

export type JoinEvent =
  | { readonly type: 'charter', readonly federation: { readonly id: string, readonly name: string }, readonly server: string }
  | FetchEvent
  | NoticeEvent

/** What joining came to, with what of the model is here now. */
export interface Joined extends FetchedModel {
  readonly home: string
  readonly peerId: string
  readonly server: string
  readonly federation: { readonly id: string, readonly name: string }
  /** Whether the home had joined this federation before, so that only addresses and noise options were updated. */
  readonly updated: boolean
  readonly client: ClientSettings
  readonly blocks: number
  /** What this client's noise on hidden states costs, as the founder measured it; null where the charter does not say. */
  readonly noiseCost: NoiseCost | null
}

/**
 * Joins a federation as a client and makes `root` its home. Interrupted, it goes on where it was when it is called again. In a home that
 * has joined this federation already it updates where the server is found and the noise options that are given, and keeps everything else.
 * Throws HomeInUseError for a home of another federation.
 */
export async function joinFederation (
  root: string,
  options: JoinOptions,
  signal: AbortSignal,
  onEvent: (event: JoinEvent) => void = () => {}
): Promise<Joined> {
  const target = await readTarget(options.invite)
  if (target.invite?.role === 'server')
    throw new UsageError(
      'the invite is for a server, and which blocks it serves is not said',
      'name them with --blocks FIRST-END, or give --blocks auto --memory SIZE'
    )
  const home = homeAt(root)
  return await withHome(home, async (charterBytes) => {
    const joined = charterBytes === undefined ? undefined : await verifyCharter(charterBytes)
    if (joined !== undefined && target.invite !== undefined && target.invite.federation !== joined.id) throw new HomeInUseError(home.root)
    const wanted = joined === undefined ? options : await keptOptions(home, options)
    const key = await loadOrCreateIdentity(home.identity)
    const node = await createMidspanNode({ privateKey: key, role: 'client', listen: [] })
    try {
      await node.start()
      const signed = await introduce(node, target, 'client', onEvent, signal)
      if (joined !== undefined && signed.id !== joined.id) throw new HomeInUseError(home.root)
      const { charter } = signed
      const federation = { id: signed.id, name: charter.name }
      onEvent({ type: 'charter', federation, server: target.server.toString() })
      const client = resolveClientSettings(charter, wanted)
      const expected = expectedModel(charter, tensorsOfEnds(charter, client.partition))
      const fetched = await fetchModel(node, target, 'client', expected, home.model, [], onEvent, signal)
      await updateServers(home, target)
      await updateConfig(home, {
        role: 'client',
        ...client.partition,
        ...(options.noise === undefined ? {} : { noise: options.noise }),
        ...(options.gradientNoise === undefined ? {} : { gradientNoise: options.gradientNoise }),
        ...(options.keepStream === undefined ? {} : { keepStream: options.keepStream }),
        ...(options.weights === undefined ? {} : { weights: options.weights })
      })
      // The charter is written last: with it the home belongs to the federation.
      if (joined === undefined) await replaceFile(home.charter, signed.bytes)
      return {
        home: home.root,
        peerId: peerIdFromPrivateKey(key).toString(),
        server: target.server.toString(),
        federation,
        updated: joined !== undefined,
        client,
        blocks: charter.model.blocks,
        noiseCost: noiseCost(charter.privacy.losses, client.partition.inputBlocks, client.noise) ?? null,
        ...fetched
      }
    } finally {
      await node.stop()
    }
  })
}

/** The options of a home that has joined before, with those that are given now. Throws UsageError for another partition. */
async function keptOptions (home: Home, options: JoinOptions): Promise<JoinOptions> {
  const config = await readConfig(home.config)
  if (config.role === 'server') throw new HomeInUseError(home.root)
  for (const field of ['inputBlocks', 'outputBlocks'] as const) {
    if (options[field] !== undefined && options[field] !== config[field]) {
      throw new UsageError(
        `${home.root} has joined with ${field} ${config[field] ?? 0}, and another number is given now`,
        'leave it out to keep the home as it is, and change its blocks with: midspan partition'
      )
    }
  }
  return {
    ...options,
    inputBlocks: config.inputBlocks,
    outputBlocks: config.outputBlocks,
    noise: options.noise ?? config.noise,
    gradientNoise: options.gradientNoise ?? config.gradientNoise,
    keepStream: options.keepStream ?? config.keepStream
  }
}

/** What a client uses: what it asked for, and the charter's least where it did not ask. Throws SettingRefusedError. */
export function resolveClientSettings (
  charter: Charter,
  options: Pick<JoinOptions, 'inputBlocks' | 'outputBlocks' | 'noise' | 'gradientNoise' | 'keepStream'>
): ClientSettings {
  const settings = {
    partition: {
      inputBlocks: options.inputBlocks ?? charter.partitions.inputBlocks.min,
      outputBlocks: options.outputBlocks ?? charter.partitions.outputBlocks.min
    },
    noise: options.noise ?? charter.privacy.noise,
    gradientNoise: options.gradientNoise ?? charter.privacy.gradientNoise,
    ...(options.keepStream === undefined ? {} : { keepStream: options.keepStream }),
    wire: charter.wire
  }
  checkClientSettings(charter, settings)
  return settings
}
