import type { PeerId, Stream } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { UsageError } from '../../errors.ts'
import { PartialModelStore } from '../../model/checkpoint/store.ts'
import { checkWeights, clientTensors, modelOf } from '../../model/families/index.ts'
import { noiseCost, type NoiseCost } from '../../model/privacy/noise-cost.ts'
import {
  type Charter,
  checkClientSettings,
  checkProtocols,
  type ClientSettings,
  protocolId,
  type SignedCharter,
  verifyCharter
} from '../../protocols/charter/index.ts'
import { type Invite, looksLikeInvite, parseInvite, RefusedError, REFUSALS, sayHello } from '../../protocols/hello/index.ts'
import { fetchPieces } from '../../protocols/weights/index.ts'
import { withDeadline } from '../../protocols/wire/wait.ts'
import { HomeInUseError, homeAt, replaceFile, type Home } from '../home/home.ts'
import { loadOrCreateIdentity } from '../home/identity.ts'
import { withHome } from '../home/lock.ts'
import { readConfig, updateConfig } from '../home/settings.ts'
import { dialPeer, UnreachableError } from '../network/dial.ts'
import { createMidspanNode, type MidspanNode } from '../network/libp2p.ts'
import { AGENT } from '../process/version.ts'
import { readServers, writeServers } from './membership.ts'
import { tensorsOfEnds } from './servable-weights.ts'

/** The options of `midspan join`. */
export interface JoinOptions {
  /** An invite's line, or a server's multiaddr with its `/p2p/` part. */
  readonly invite: string
  /** The fewest that the charter allows, unless given. */
  readonly inputBlocks?: number | undefined
  readonly outputBlocks?: number | undefined
  /** The charter's floor, unless given. */
  readonly noise?: number | undefined
  readonly gradientNoise?: number | undefined
}

export type JoinEvent =
  | { readonly type: 'charter', readonly federation: { readonly id: string, readonly name: string }, readonly server: string }
  | { readonly type: 'fetch', readonly totalBytes: number, readonly doneBytes: number }

export interface Joined {
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
  /** What of the model is here now. */
  readonly files: readonly string[]
  readonly tensors: number
  readonly tensorBytes: number
  /** Bytes that came over the network in this run. */
  readonly fetchedBytes: number
}

interface Target {
  readonly server: PeerId
  readonly addresses: readonly Multiaddr[]
  readonly invite: Invite | undefined
}

/** A charter names sizes; a home is not filled with more than this, whatever it names. The store checks the free space too. */
const MAX_MODEL_BYTES = 2 ** 40
const HELLO_TIMEOUT_MS = 60_000

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
  const home = homeAt(root)
  return await withHome(home, async (charterBytes) => {
    const joined = charterBytes === undefined ? undefined : await verifyCharter(charterBytes)
    if (joined !== undefined && target.invite !== undefined && target.invite.federation !== joined.id) throw new HomeInUseError(home.root)
    const wanted = joined === undefined ? options : await keptOptions(home, options)
    const key = await loadOrCreateIdentity(home.identity)
    const node = await createMidspanNode({ privateKey: key, role: 'client', listen: [] })
    try {
      await node.start()
      const signed = await introduce(node, target, signal)
      if (joined !== undefined && signed.id !== joined.id) throw new HomeInUseError(home.root)
      const { charter } = signed
      const federation = { id: signed.id, name: charter.name }
      onEvent({ type: 'charter', federation, server: target.server.toString() })
      const client = resolveClientSettings(charter, wanted)
      const weights = await fetchEnds(node, target, charter, client, home.model, onEvent, signal)
      await updateServers(home, { peerId: target.server.toString(), addresses: target.addresses.map(String) })
      await updateConfig(home, {
        role: 'client',
        ...client.partition,
        ...(options.noise === undefined ? {} : { noise: options.noise }),
        ...(options.gradientNoise === undefined ? {} : { gradientNoise: options.gradientNoise })
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
        ...weights
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
        'leave it out to keep the home as it is, or leave the federation and join it again'
      )
    }
  }
  return {
    ...options,
    inputBlocks: config.inputBlocks,
    outputBlocks: config.outputBlocks,
    noise: options.noise ?? config.noise,
    gradientNoise: options.gradientNoise ?? config.gradientNoise
  }
}

/** Puts a server's addresses in place of those known of it before. Other servers stay known. */
async function updateServers (home: Home, server: { readonly peerId: string, readonly addresses: readonly string[] }): Promise<void> {
  const others = (await readServers(home)).filter(({ peerId }) => peerId !== server.peerId)
  await writeServers(home, [server, ...others])
}

/** What a client uses: what it asked for, and the charter's least where it did not ask. Throws SettingRefusedError. */
export function resolveClientSettings (
  charter: Charter,
  options: Pick<JoinOptions, 'inputBlocks' | 'outputBlocks' | 'noise' | 'gradientNoise'>
): ClientSettings {
  const settings = {
    partition: {
      inputBlocks: options.inputBlocks ?? charter.partitions.inputBlocks.min,
      outputBlocks: options.outputBlocks ?? charter.partitions.outputBlocks.min
    },
    noise: options.noise ?? charter.privacy.noise,
    gradientNoise: options.gradientNoise ?? charter.privacy.gradientNoise,
    wire: charter.wire
  }
  checkClientSettings(charter, settings)
  return settings
}

async function readTarget (text: string): Promise<Target> {
  if (looksLikeInvite(text)) {
    const invite = await parseInvite(text)
    if (invite.expiresAtMs <= Date.now())
      throw new RefusedError(
        REFUSALS.inviteExpired,
        'invite.expires',
        `the invite expired at ${new Date(invite.expiresAtMs).toISOString()}`
      )
    if (invite.role !== 'client')
      throw new RefusedError(REFUSALS.role, 'invite.role', `the invite is for a ${invite.role}, and join makes a client`)
    return { server: peerIdFromString(invite.server), addresses: invite.addresses.map((address) => multiaddr(address)), invite }
  }
  try {
    const address = multiaddr(text)
    const id = address.getComponents().findLast(({ name }) => name === 'p2p')?.value
    if (id !== undefined) return { server: peerIdFromString(id), addresses: [address], invite: undefined }
  } catch (error) {
    throw new UsageError(
      `${text} is neither an invite nor a multiaddr`,
      'copy the line that midspan invite printed, or an address such as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…',
      error
    )
  }
  throw new UsageError(`${text} does not say which peer to expect`, 'add /p2p/ and the server\'s peer id, as its daemon prints it')
}

async function introduce (node: MidspanNode, { server, addresses, invite }: Target, signal: AbortSignal): Promise<SignedCharter> {
  const welcomed = await withDeadline('the server did not answer', HELLO_TIMEOUT_MS, signal, async (deadline) => {
    const stream = await open(node, server, addresses, protocolId('hello'), deadline)
    return await sayHello(stream, { agent: AGENT, role: 'client', invite: invite?.bytes }, deadline)
  })
  if (welcomed.role !== 'server') throw new RefusedError(REFUSALS.role, 'role', `${server.toString()} is a ${welcomed.role}, not a server`)
  const signed = await verifyCharter(welcomed.charter ?? new Uint8Array(0))
  if (invite !== undefined && signed.id !== invite.federation)
    throw new RefusedError(
      REFUSALS.inviteFederation,
      'federation',
      'the server sent the charter of another federation than the invite names'
    )
  checkProtocols(signed.charter)
  return signed
}

async function open (
  node: MidspanNode,
  server: PeerId,
  addresses: readonly Multiaddr[],
  protocol: string,
  signal: AbortSignal
): Promise<Stream> {
  const what = `the server ${server.toString()}`
  const connection = node.getConnections(server)[0] ?? await dialPeer(node, server, addresses, what, signal)
  try {
    return await connection.newStream(protocol, { signal })
  } catch (error) {
    signal.throwIfAborted()
    throw new UnreachableError(what, error)
  }
}

async function fetchEnds (
  node: MidspanNode,
  { server, addresses, invite }: Target,
  charter: Charter,
  { partition }: ClientSettings,
  path: string,
  onEvent: (event: JoinEvent) => void,
  signal: AbortSignal
): Promise<Pick<Joined, 'files' | 'tensors' | 'tensorBytes' | 'fetchedBytes'>> {
  const { model: { tensors, files, config }, adapters: { initial = {} } } = charter
  const model = modelOf(config)
  checkWeights(model, {
    path: 'the charter',
    has: (name) => Object.hasOwn(tensors, name),
    info: (name) => tensors[name]!,
    tensorNames: () => Object.keys(tensors)
  }, clientTensors(model, partition))
  const prints = { ...initial, ...tensors }
  const names = tensorsOfEnds(charter, partition)
  const missing = names.find((name) => !Object.hasOwn(prints, name))
  if (missing !== undefined)
    throw new UsageError(
      `the charter describes no tensor ${missing}, which training starts from`,
      "ask the founder: the federation's adapter is incomplete"
    )
  const expected = { tensors: Object.fromEntries(names.map((name) => [name, prints[name]!])), files }
  const store = await PartialModelStore.open(path, expected, MAX_MODEL_BYTES, signal)
  const totalBytes = store.pending().reduce((sum, { bytes, offset }) => sum + bytes - offset, 0)
  let fetchedBytes = 0
  await fetchPieces(store, {
    open: async (signal) => {
      if (node.getConnections(server).length === 0) await introduce(node, { server, addresses, invite }, signal)
      return await open(node, server, addresses, protocolId('weights'), signal)
    },
    onProgress: (bytes) => {
      fetchedBytes += bytes
      onEvent({ type: 'fetch', totalBytes, doneBytes: fetchedBytes })
    }
  }, signal)
  await store.finish()
  const tensorBytes = Object.values(expected.tensors).reduce((sum, { bytes }) => sum + bytes, 0)
  return { files: Object.keys(files), tensors: Object.keys(expected.tensors).length, tensorBytes, fetchedBytes }
}
