import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { PeerLine } from '../../../src/api/peers.ts'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import type { DaemonStatus } from '../../../src/node/daemon/daemon-status.ts'
import { startDaemon } from '../../../src/node/daemon/daemon.ts'
import { joinFederation, type JoinEvent } from '../../../src/node/federation/join.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { loadOrCreateIdentity } from '../../../src/node/home/identity.ts'
import { updateConfig } from '../../../src/node/home/settings.ts'
import { createMidspanNode } from '../../../src/node/network/libp2p.ts'
import { protocolId } from '../../../src/protocols/charter/index.ts'
import { sayHello } from '../../../src/protocols/hello/index.ts'
import { askStatus } from '../../../src/protocols/status/status.ts'
import { fetchPieces, type MissingPiece, type PieceStore } from '../../../src/protocols/weights/index.ts'
import type { ServerContext } from '../../../src/roles/context.ts'
import { ask, founded, hasStories, idleRoles, inviteFrom, loopback, running, temporaryDirectory } from '../fixture.ts'

const soon = (): AbortSignal => AbortSignal.timeout(15_000)

async function serverOf (changes = {}) {
  const { home, peerId, federation } = await founded(changes)
  const daemon = await running(home, loopback)
  return { home, peerId, federation, daemon, address: daemon.status().addresses[0] ?? '' }
}

async function until (condition: () => Promise<boolean>): Promise<void> {
  while (!await condition()) await sleep(20)
}

/** A libp2p node that is in no home, and a stream opener to the server. */
async function strangerTo (address: string, role: 'client' | 'server' = 'client') {
  const key = await loadOrCreateIdentity(join(await temporaryDirectory(), 'identity.key'))
  const node = await createMidspanNode({ privateKey: key, role, listen: [] })
  await node.start()
  onTestFinished(async () => { await node.stop() })
  return { node, open: async (protocol: string) => await node.dialProtocol(multiaddr(address), protocol, { signal: soon() }) }
}

const everything = (pieces: MissingPiece[]): PieceStore => ({
  pending: () => pieces,
  append: async () => {
    throw new Error('bytes came')
  }
})

describe.runIf(hasStories)('a federation on loopback', () => {
  it('is joined with an invite, and the client then holds its ends alone', async () => {
    const server = await serverOf()
    const home = await temporaryDirectory()
    const joined = await joinFederation(home, { invite: await inviteFrom(server.home) }, soon())
    expect(joined.federation).toEqual(server.federation)
    const model = await openModelDirectory(join(home, 'model'))
    const names = model.tensorNames()
    expect(names).toContain('model.layers.0.mlp.up_proj.weight')
    expect(names).toContain('model.layers.4.mlp.up_proj.weight')
    expect(names.filter((name) => /layers\.[123]\./.test(name))).toEqual([])
    expect(model.files).toContain('tokenizer.json')
    expect(await readdir(join(home, 'model'))).not.toContain('parts')
    expect((await stat(join(home, 'identity.key'))).mode & 0o777).toBe(0o600)
  })

  it('shows its members to each other', async () => {
    const server = await serverOf()
    const home = await temporaryDirectory()
    const { peerId } = await joinFederation(home, { invite: await inviteFrom(server.home), inputBlocks: 2, noise: 0.7 }, soon())
    const client = await running(home)
    expect(await ask<DaemonStatus>(home, 'status')).toMatchObject({
      role: 'client',
      connected: true,
      blocks: null,
      partition: { inputBlocks: 2, outputBlocks: 1 }
    })
    const seenByClient = await ask<{ peers: PeerLine[] }>(home, 'peers')
    expect(seenByClient.peers).toMatchObject([{ peerId: server.peerId, role: 'server', blocks: { first: 1, end: 4 }, path: 'direct' }])
    expect(seenByClient.peers[0]?.roundTripMs).toBeTypeOf('number')
    expect((await ask<{ peers: PeerLine[] }>(server.home, 'peers')).peers).toMatchObject([{ peerId, role: 'client', blocks: null }])
    await client.stop()
    await until(async () => (await ask<{ peers: PeerLine[] }>(server.home, 'peers')).peers.length === 0)
  })

  it('greets a client again after the server came back', async () => {
    const { home: serverHome } = await founded()
    const first = await running(serverHome, loopback)
    const listen = first.node.getMultiaddrs().map((address) => address.toString().split('/p2p/')[0] ?? '')
    const home = await temporaryDirectory()
    await joinFederation(home, { invite: await inviteFrom(serverHome) }, soon())
    await running(home)
    await first.stop()
    await until(async () => !(await ask<DaemonStatus>(home, 'status')).connected)
    await running(serverHome, listen)
    await until(async () => (await ask<DaemonStatus>(home, 'status')).connected)
  })

  it('is left: the server forgets the client, and its home keeps the identity alone', async () => {
    const server = await serverOf()
    const home = await temporaryDirectory()
    const { peerId } = await joinFederation(home, { invite: await inviteFrom(server.home) }, soon())
    const client = await running(home)
    expect(await ask(home, 'leave')).toEqual({ left: server.federation.id, told: [server.peerId] })
    await client.stopped
    expect(await readdir(home)).not.toContain('charter.json')
    expect(await readdir(home)).toContain('identity.key')
    expect(await readFile(join(server.home, 'admission.json'), 'utf8')).not.toContain(`"${peerId}": {`)
  })

  it('is left while its server is away', async () => {
    const server = await serverOf()
    const home = await temporaryDirectory()
    await joinFederation(home, { invite: await inviteFrom(server.home) }, soon())
    const client = await running(home)
    await server.daemon.stop()
    await until(async () => !(await ask<DaemonStatus>(home, 'status')).connected)
    expect(await ask(home, 'leave')).toEqual({ left: server.federation.id, told: [] })
    await client.stopped
  })

  it('has a member fewer when its operator removes one, and room for another', async () => {
    const server = await serverOf({ maxClients: 1 })
    const [home, other] = [await temporaryDirectory(), await temporaryDirectory()]
    const { peerId } = await joinFederation(home, { invite: await inviteFrom(server.home) }, soon())
    await running(home)
    expect((await ask<DaemonStatus>(server.home, 'status')).members).toMatchObject([{ peerId, role: 'client', how: 'invite' }])
    await expect(joinFederation(other, { invite: await inviteFrom(server.home) }, soon())).rejects.toMatchObject({
      code: 'E_FEDERATION_FULL'
    })
    expect(await ask(server.home, 'remove', { peer: peerId })).toEqual({ removed: peerId })
    await until(async () => !(await ask<DaemonStatus>(home, 'status')).connected)
    await joinFederation(other, { invite: await inviteFrom(server.home) }, soon())
    await expect(ask(server.home, 'remove', { peer: peerId })).rejects.toMatchObject({
      code: 'E_USAGE',
      message: expect.stringContaining('has no place') as string
    })
  })

  it('says why its server does not connect', async () => {
    const server = await serverOf()
    const home = await temporaryDirectory()
    const { peerId } = await joinFederation(home, { invite: await inviteFrom(server.home) }, soon())
    await server.daemon.stop()
    const path = join(server.home, 'admission.json')
    await writeFile(path, JSON.stringify({ peers: {}, invites: {} }))
    await running(server.home, [server.address.split('/p2p/')[0] ?? ''])
    await running(home)
    expect(await ask<DaemonStatus>(home, 'status')).toMatchObject({
      connected: false,
      disconnectedReason: expect.stringMatching(new RegExp(`^${peerId} is not admitted .*invite`)) as string
    })
  })

  it('admits a peer on its allow-list by address alone', async () => {
    const home = await temporaryDirectory()
    const peerId = peerIdFromPrivateKey(await loadOrCreateIdentity(join(home, 'identity.key'))).toString()
    const server = await serverOf({ admission: 'allow-list', allow: [peerId] })
    expect(await joinFederation(home, { invite: server.address }, soon())).toMatchObject({ peerId })
  })

  it('admits anybody when it is open', async () => {
    const server = await serverOf({ admission: 'open' })
    expect(await joinFederation(await temporaryDirectory(), { invite: server.address }, soon())).toMatchObject({
      fetchedBytes: expect.any(Number) as number
    })
  })
})

describe.runIf(hasStories)('a peer is refused', () => {
  it('without an invite', async () => {
    const server = await serverOf()
    await expect(joinFederation(await temporaryDirectory(), { invite: server.address }, soon())).rejects.toMatchObject({
      code: 'E_NOT_ADMITTED'
    })
  })

  it('with an invite that somebody used', async () => {
    const server = await serverOf()
    const invite = await inviteFrom(server.home)
    await joinFederation(await temporaryDirectory(), { invite }, soon())
    await expect(joinFederation(await temporaryDirectory(), { invite }, soon())).rejects.toMatchObject({
      code: 'E_INVITE_USED',
      field: 'invite.uses'
    })
  })

  it('with an invite that expired', async () => {
    const server = await serverOf()
    const invite = await inviteFrom(server.home, { expiresMs: 1 })
    await sleep(5)
    await expect(joinFederation(await temporaryDirectory(), { invite }, soon())).rejects.toMatchObject({ code: 'E_INVITE_EXPIRED' })
  })

  it('by the server, whose clock decides, with an invite that seems to have expired', async () => {
    const server = await serverOf()
    const invite = await inviteFrom(server.home, { expiresMs: 1 })
    await server.daemon.stop()
    await sleep(5)
    const events: JoinEvent[] = []
    const joining = joinFederation(await temporaryDirectory(), { invite }, soon(), (event) => { events.push(event) })
    await expect(joining).rejects.toMatchObject({ code: 'E_UNREACHABLE' })
    expect(events).toMatchObject([{ type: 'notice', text: expect.stringMatching(/^by this machine's clock the invite expired at /) as string }])
  })

  it('when it asks for less noise or another partition than the charter allows', async () => {
    const server = await serverOf()
    const invite = await inviteFrom(server.home)
    const home = await temporaryDirectory()
    await expect(joinFederation(home, { invite, noise: 0.4 }, soon())).rejects.toMatchObject({ code: 'E_SETTING_REFUSED', field: 'noise' })
    await expect(joinFederation(home, { invite, inputBlocks: 3 }, soon())).rejects.toMatchObject({
      code: 'E_SETTING_REFUSED',
      field: 'inputBlocks'
    })
    await joinFederation(home, { invite }, soon())
  })

  it('with every protocol but hello, until it is admitted, and loses the connection when it is not', async () => {
    const server = await serverOf()
    const { node, open } = await strangerTo(server.address)
    await expect(askStatus(await open(protocolId('status')), soon())).rejects.toMatchObject({ code: 'E_NOT_ADMITTED' })
    await expect(sayHello(await open(protocolId('hello')), { agent: 'test', role: 'client' }, soon())).rejects.toMatchObject({
      code: 'E_NOT_ADMITTED'
    })
    await until(async () => node.getConnections(peerIdFromString(server.peerId)).length === 0)
  })

  it('when it advertises another role than it says', async () => {
    const server = await serverOf({ admission: 'open' })
    const { node, open } = await strangerTo(server.address, 'server')
    await sayHello(await open(protocolId('hello')), { agent: 'test', role: 'client' }, soon()).catch(() => {})
    await until(async () => node.getConnections(peerIdFromString(server.peerId)).length === 0)
  })

  it('with a home that is in a federation already', async () => {
    const server = await serverOf()
    await expect(joinFederation(server.home, { invite: server.address }, soon())).rejects.toMatchObject({ code: 'E_HOME_LOCKED' })
    await server.daemon.stop()
    await expect(joinFederation(server.home, { invite: server.address }, soon())).rejects.toMatchObject({ code: 'E_HOME_IN_USE' })
  })

  it('with words that are neither an invite nor an address', async () => {
    for (const invite of ['hello', '/ip4/127.0.0.1/tcp/1', 'midspan:zzzz', '/nonsense/1']) {
      await expect(joinFederation(await temporaryDirectory(), { invite }, soon())).rejects.toMatchObject({
        message: expect.stringMatching(/^[^\n]+$/) as string,
        next: expect.any(String) as string
      })
    }
  })
})

describe.runIf(hasStories)('weights', () => {
  it('of the middle are not served to an admitted client', async () => {
    const server = await serverOf({ admission: 'open', inputBlocks: { min: 1, max: 1 } })
    const { open } = await strangerTo(server.address)
    await sayHello(await open(protocolId('hello')), { agent: 'test', role: 'client' }, soon())
    const secrets: Array<Pick<MissingPiece, 'kind' | 'name'>> = [
      { kind: 'tensor', name: 'model.layers.2.mlp.up_proj.weight' }, { kind: 'file', name: 'model.safetensors' },
      { kind: 'file', name: '../identity.key' }, { kind: 'tensor', name: 'tokenizer.json' }, { kind: 'tensor', name: '__proto__' }
    ]
    for (const secret of secrets) {
      const store = everything([{ ...secret, sha256: '00'.repeat(32), bytes: 1, offset: 0 }])
      await expect(fetchPieces(store, { open: async () => await open(protocolId('weights')) }, soon())).rejects.toMatchObject({
        code: 'E_NOT_SERVED'
      })
    }
  })
})

describe.runIf(hasStories)('a daemon', () => {
  it('is refused a home in which another runs, with its process named', async () => {
    const server = await serverOf()
    await expect(running(server.home, loopback)).rejects.toMatchObject({ code: 'E_HOME_LOCKED', pid: process.pid })
  })

  it('is refused a port in use, and leaves the home free', async () => {
    const server = await serverOf()
    const other = await founded()
    const taken = server.address.split('/p2p/')[0] ?? ''
    await expect(running(other.home, [taken])).rejects.toMatchObject({ code: 'E_USAGE', message: expect.stringContaining(taken) as string })
    await running(other.home, loopback)
  })

  it('says what kept it from starting, whatever it then cannot undo', async () => {
    const server = await serverOf()
    const { home } = await founded()
    const stubborn = {
      ...idleRoles,
      server: async () => ({
        status: () => ({}),
        operations: {},
        stop: async () => {
          throw new Error('it does not stop')
        }
      })
    }
    await expect(startDaemon(home, { listen: [server.address.split('/p2p/')[0] ?? ''] }, { roles: stubborn })).rejects.toMatchObject({
      code: 'E_USAGE',
      message: expect.stringContaining('address already in use') as string
    })
  })

  it('does not become ready when it was told to stop meanwhile', async () => {
    const { home } = await founded()
    const stop = new AbortController()
    const roles = { ...idleRoles, server: async () => {
      stop.abort(new Error('enough'))
      return await idleRoles.server({} as ServerContext)
    } }
    await expect(startDaemon(home, { listen: loopback }, { roles, signal: stop.signal })).rejects.toThrow('enough')
    await running(home, loopback)
  })

  it('is refused a home that does not say what it is', async () => {
    const { home } = await founded()
    await updateConfig(homeAt(home), { role: undefined })
    await expect(running(home, loopback)).rejects.toMatchObject({
      code: 'E_USAGE',
      message: expect.stringContaining('config.yaml') as string
    })
  })

  it('makes no invite that lasts for ages', async () => {
    const { home } = await serverOf()
    await expect(ask(home, 'invite', { role: 'client', expiresMs: Number.MAX_SAFE_INTEGER, uses: 1 })).rejects.toMatchObject({
      code: 'E_USAGE',
      message: expect.stringContaining('ten years') as string
    })
  })

  it('is refused a home without a federation', async () => {
    await expect(running(await temporaryDirectory())).rejects.toMatchObject({ code: 'E_NO_FEDERATION' })
  })

  it('is refused a model that is not the charter\'s', async () => {
    const { home } = await founded()
    const empty = await temporaryDirectory()
    await updateConfig(homeAt(home), { model: empty })
    await expect(running(home, loopback)).rejects.toMatchObject({ code: 'E_MODEL_DIRECTORY' })
  })
})

describe.runIf(hasStories)('a founder', () => {
  it.each([
    ['partitions that leave no middle', { inputBlocks: { min: 1, max: 4 } }, /5 blocks/],
    ['noise without a clip', { clip: 'none' }, /clip/],
    ['a name with control characters', { name: 'a\u001bb' }, /^name: /],
    ['no such model', { model: '/nowhere' }, /\/nowhere/]
  ])('is told about %s', async (_, changes, message) => {
    await expect(founded(changes as object)).rejects.toMatchObject({ message: expect.stringMatching(message) as string })
  })
})
