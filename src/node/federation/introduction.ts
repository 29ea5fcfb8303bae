import type { PeerId, Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { UsageError } from '../../errors.ts'
import { PartialModelStore, type ExpectedModel } from '../../model/checkpoint/store.ts'
import { checkProtocols, protocolId, verifyCharter, type SignedCharter } from '../../protocols/charter/index.ts'
import { DIRECTORY_PROTOCOL, DirectoryStream, type Announcement, type DirectoryScope, type DirectoryUpdate } from '../../protocols/directory/index.ts'
import { clockDifference, looksLikeInvite, parseInvite, RefusedError, REFUSALS, sayHello, type Invite } from '../../protocols/hello/index.ts'
import { fetchFromSeveral, type FetchSource } from '../../protocols/weights/index.ts'
import { withDeadline } from '../../protocols/wire/wait.ts'
import type { Home } from '../home/home.ts'
import { dialPeer, UnreachableError } from '../network/dial.ts'
import type { MidspanNode, Role } from '../network/libp2p.ts'
import { AGENT } from '../process/version.ts'
import { readServers, writeServers } from './membership.ts'

/** The server at which a peer introduces itself, and what it shows there. */
export interface Target {
  readonly server: PeerId
  readonly addresses: readonly Multiaddr[]
  readonly invite: Invite | undefined
}

/** A charter names sizes; a home is not filled with more than this, whatever it names. The store checks the free space too. */
const MAX_MODEL_BYTES = 2 ** 40
const HELLO_TIMEOUT_MS = 60_000
const DIRECTORY_TIMEOUT_MS = 30_000

/**
 * Reads an invite's line or a server's multiaddr. An invite that has expired by this machine's clock is read too: the server's clock
 * decides. Throws RefusedError for what is no invite, and UsageError.
 */
export async function readTarget (text: string): Promise<Target> {
  if (looksLikeInvite(text)) {
    const invite = await parseInvite(text)
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

/** Puts a server's addresses in place of those known of it before. Other servers stay known. */
export async function updateServers (home: Home, { server, addresses }: Target): Promise<void> {
  const others = (await readServers(home)).filter(({ peerId }) => peerId !== server.toString())
  await writeServers(home, [{ peerId: server.toString(), addresses: addresses.map(String) }, ...others])
}

/** Something that the user should know, such as a clock that is off. */
export type NoticeEvent = { readonly type: 'notice', readonly text: string }

/** Says hello to the target as a new peer. Resolves to its charter, verified. Throws RefusedError, the charter's and the wire's errors. */
export async function introduce (
  node: MidspanNode,
  { server, addresses, invite }: Target,
  role: Role,
  onNotice: (event: NoticeEvent) => void,
  signal: AbortSignal
): Promise<SignedCharter> {
  if (invite !== undefined && invite.expiresAtMs <= Date.now()) {
    const expired = new Date(invite.expiresAtMs).toISOString()
    onNotice({ type: 'notice', text: `by this machine's clock the invite expired at ${expired}; the server is asked, whose clock decides` })
  }
  const welcomed = await withDeadline('the server did not answer', HELLO_TIMEOUT_MS, signal, async (deadline) => {
    const stream = await open(node, { server, addresses }, protocolId('hello'), deadline)
    return await sayHello(stream, { agent: AGENT, role, invite: invite?.bytes }, deadline)
  })
  if (welcomed.role !== 'server') throw new RefusedError(REFUSALS.role, 'role', `${server.toString()} is a ${welcomed.role}, not a server`)
  const clock = clockDifference(welcomed.timeMs, Date.now())
  if (clock !== undefined) onNotice({ type: 'notice', text: `${clock}: set the one that is wrong` })
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

/** Opens a stream to the target, dialling it where it is not connected. Throws UnreachableError. */
export async function open (
  node: MidspanNode,
  { server, addresses }: Pick<Target, 'server' | 'addresses'>,
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

/**
 * Asks the target, of which this peer is a member by now, who serves which blocks, and for a certificate. Throws AnnouncementError and the
 * wire's errors.
 */
export async function askDirectory (
  node: MidspanNode,
  target: Target,
  scope: DirectoryScope,
  signal: AbortSignal
): Promise<Pick<DirectoryUpdate, 'entries' | 'certificate'>> {
  return await withDeadline('the server did not tell who serves which blocks', DIRECTORY_TIMEOUT_MS, signal, async (deadline) => {
    const stream = new DirectoryStream(await open(node, target, DIRECTORY_PROTOCOL, deadline), scope)
    try {
      await stream.sync({ instance: new Uint8Array(0), version: 0 }, deadline)
      const { entries, certificate } = await stream.read(deadline)
      await stream.close(deadline)
      return { entries, certificate }
    } catch (error) {
      stream.abort(error as Error)
      throw error
    }
  })
}

/** Opens a stream to a worker, as a member that shows its certificate. Throws RefusedError, UnreachableError and the wire's errors. */
export async function openAtWorker (
  node: MidspanNode,
  { peer, addresses }: Pick<Announcement, 'peer' | 'addresses'>,
  { role, federation, certificate }: { readonly role: Role, readonly federation: Uint8Array, readonly certificate: Uint8Array },
  protocol: string,
  signal: AbortSignal
): Promise<Stream> {
  const target = { server: peerIdFromString(peer), addresses: addresses.map((address) => multiaddr(address)) }
  return await withDeadline('the server did not answer', HELLO_TIMEOUT_MS, signal, async (deadline) => {
    if (node.getConnections(target.server).length === 0)
      await sayHello(await open(node, target, protocolId('hello'), deadline), { agent: AGENT, role, federation, certificate }, deadline)
    return await open(node, target, protocol, deadline)
  })
}

/** What of a model is in a home, and what of it came over the network in this run. */
export interface FetchedModel {
  readonly files: readonly string[]
  readonly tensors: number
  readonly tensorBytes: number
  /** Bytes that came over the network in this run. */
  readonly fetchedBytes: number
}

/** Opens a part of a model in a home's directory. Throws ModelStoreError. */
export async function openStore (path: string, expected: ExpectedModel, signal?: AbortSignal): Promise<PartialModelStore> {
  return await PartialModelStore.open(path, expected, MAX_MODEL_BYTES, signal)
}

export type FetchEvent = { readonly type: 'fetch', readonly totalBytes: number, readonly doneBytes: number }

/**
 * Fetches a part of a model into a directory, from the target and from others that have some of it, going on where an earlier run stopped,
 * and checks every byte of it. Throws ModelStoreError, and what `fetchFromSeveral` throws.
 */
export async function fetchModel (
  node: MidspanNode,
  target: Target,
  role: Role,
  expected: ExpectedModel,
  path: string,
  others: readonly FetchSource[],
  onEvent: (event: FetchEvent) => void,
  signal: AbortSignal
): Promise<FetchedModel> {
  const store = await openStore(path, expected, signal)
  const totalBytes = store.pending().reduce((sum, { bytes, offset }) => sum + bytes - offset, 0)
  let fetchedBytes = 0
  const first: FetchSource = {
    name: target.server.toString(),
    has: () => true,
    open: async (signal) => {
      if (node.getConnections(target.server).length === 0) await introduce(node, target, role, () => {}, signal)
      return await open(node, target, protocolId('weights'), signal)
    }
  }
  await fetchFromSeveral(store, [first, ...others], {
    onProgress: (bytes) => {
      fetchedBytes += bytes
      onEvent({ type: 'fetch', totalBytes, doneBytes: fetchedBytes })
    }
  }, signal)
  await store.finish()
  const tensorBytes = Object.values(expected.tensors).reduce((sum, { bytes }) => sum + bytes, 0)
  return { files: Object.keys(expected.files), tensors: Object.keys(expected.tensors).length, tensorBytes, fetchedBytes }
}
