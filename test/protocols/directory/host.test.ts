import { setTimeout as sleep } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { streamPair } from '@libp2p/utils'
import { describe, expect, it } from 'vitest'
import {
  MAX_MEMBER_MESSAGE_BYTES,
  MAX_MESSAGES_PER_MINUTE,
  MAX_REASON_CHARS,
  MAX_SERVERS,
  MAX_UPDATE_BYTES
} from '../../../src/protocols/directory/constants.ts'
import { MemberMessageSchema, UpdateSchema } from '../../../src/protocols/directory/directory_pb.ts'
import { Directory, DirectoryHost, DirectoryStream, KnownDirectory, type AskedMove, type DirectoryUpdate } from '../../../src/protocols/directory/index.ts'
import { asHost, asMember } from '../../../src/protocols/directory/messages.ts'
import { createCertificate, createRevocations, verifyCertificate } from '../../../src/protocols/hello/index.ts'
import { ControlStream } from '../../../src/protocols/wire/control.ts'
import { keyOf } from '../charter/fixture.ts'
import { announcementOf, idOf, load, scope } from './fixture.ts'

const soon = (): AbortSignal => AbortSignal.timeout(10_000)
const NOTHING = { instance: new Uint8Array(0), version: 0 }
const FOUNDER = 1
const CLIENT = 2
const SERVER = 3

async function hosted () {
  const directory = new Directory()
  const [server, client] = [await idOf(SERVER), await idOf(CLIENT)]
  let revoked = { version: 1, peers: new Set<string>() }
  const changes: string[] = []
  let move: AskedMove | undefined
  const host = new DirectoryHost({
    directory,
    scope,
    roleOf: (peer) => peer === server ? 'server' : peer === client ? 'client' : undefined,
    certify: async (peer, role) => await createCertificate({ federation: scope.federation, peer, role }, await keyOf(FOUNDER)),
    revocations: async () => await createRevocations({ federation: scope.federation, ...revoked }, await keyOf(FOUNDER)),
    move: (peer) => peer === server ? move : undefined,
    onChanged: (change) => { changes.push(change) },
    pauseMs: { servers: 20, load: 60 }
  })
  const connect = async (seed: number) => {
    const [near, far] = await streamPair()
    const ended = host.serve(far, await idOf(seed)).then(() => undefined, (error: unknown) => error)
    return { stream: new DirectoryStream(near, scope), near, ended }
  }
  const revoke = (version: number, peers: string[]): void => { revoked = { version, peers: new Set(peers) } }
  const ask = (other: AskedMove | undefined): void => {
    move = other
    host.notify('servers')
  }
  return { directory, host, changes, connect, revoke, ask }
}

const now = async (seed: number, changes = {}) => await announcementOf(seed, changes, Date.now())
const peersOf = ({ entries }: DirectoryUpdate): string[] => entries.map(({ peer }) => peer)

describe('the host of a directory', () => {
  it('gives a member the directory and a certificate, and then what changes', async () => {
    const { changes, connect } = await hosted()
    const [server, client] = [await connect(SERVER), await connect(CLIENT)]
    await client.stream.sync(NOTHING)
    const first = await client.stream.read(soon())
    expect(first).toMatchObject({ complete: true, entries: [], revocations: undefined })
    expect(await verifyCertificate(first.certificate as Uint8Array, await idOf(FOUNDER))).toMatchObject({
      peer: await idOf(CLIENT), role: 'client', federation: scope.federation
    })
    await server.stream.announce(await now(SERVER))
    const second = await client.stream.read(soon())
    expect(second).toMatchObject({ complete: false, certificate: undefined })
    expect(peersOf(second)).toEqual([await idOf(SERVER)])
    await server.stream.leave()
    expect(await client.stream.read(soon())).toMatchObject({ complete: false, entries: [], removed: [await idOf(SERVER)] })
    expect(changes).toEqual(['servers', 'servers'])
  })

  it('gives servers the list of revocations, and each later one', async () => {
    const { host, connect, revoke } = await hosted()
    const { stream } = await connect(SERVER)
    await stream.sync(NOTHING)
    const first = (await stream.read(soon())).revocations
    revoke(2, [await idOf(CLIENT)])
    host.notify('servers')
    const second = (await stream.read(soon())).revocations
    expect([first, second].map((list) => list === undefined)).toEqual([false, false])
    expect(second).not.toEqual(first)
  })

  it('tells a server alone where it is to move, in each update for as long as that is wanted', async () => {
    const { host, connect, ask, directory } = await hosted()
    const [server, client] = [await connect(SERVER), await connect(CLIENT)]
    await server.stream.sync(NOTHING)
    expect((await server.stream.read(soon())).move).toBeUndefined()
    const move = { to: { first: 2, end: 5 }, reason: 'nobody served them', isUrgent: true }
    ask(move)
    expect((await server.stream.read(soon())).move).toEqual(move)
    await client.stream.sync(NOTHING)
    expect((await client.stream.read(soon())).move).toBeUndefined()
    directory.announce(await now(4), await idOf(4))
    host.notify('servers')
    expect(await server.stream.read(soon())).toMatchObject({ entries: [{}], move })
    ask(undefined)
    expect((await server.stream.read(soon())).move).toBeUndefined()
  })

  it('tells a member that comes back what it missed alone', async () => {
    const { directory, connect } = await hosted()
    const copy = new KnownDirectory()
    const before = await connect(CLIENT)
    await before.stream.sync(NOTHING)
    copy.apply(await before.stream.read(soon()))
    before.stream.abort(new Error('gone'))
    directory.announce(await now(SERVER), await idOf(SERVER))
    const after = await connect(CLIENT)
    await after.stream.sync(copy.known)
    const update = await after.stream.read(soon())
    expect([update.complete, peersOf(update)]).toEqual([false, [await idOf(SERVER)]])
  })

  it('tells changes of load together, and less often', async () => {
    const { connect } = await hosted()
    const [server, client] = [await connect(SERVER), await connect(CLIENT)]
    await client.stream.sync(NOTHING)
    await client.stream.read(soon())
    for (let sequence = 1; sequence <= 10; sequence++) {
      await server.stream.announce(await now(SERVER, { sequence, load: { ...load, sessions: sequence } }))
    }
    let updates = 0
    for (let sessions = 0; sessions !== 10; updates++) sessions = (await client.stream.read(soon())).entries[0]?.load?.sessions ?? 0
    expect(updates).toBeLessThan(5)
  })

  it('takes no announcement of a client, and ends its stream saying why', async () => {
    const { connect } = await hosted()
    const { stream, ended } = await connect(CLIENT)
    await stream.announce(await now(CLIENT))
    await expect(stream.read(soon())).rejects.toMatchObject({ code: 'E_ANNOUNCEMENT_PEER' })
    expect(await ended).toMatchObject({ code: 'E_ANNOUNCEMENT_PEER' })
  })

  it("takes no announcement in another server's name", async () => {
    const { connect } = await hosted()
    const { stream, ended } = await connect(SERVER)
    await stream.announce(await now(4))
    expect(await ended).toMatchObject({ code: 'E_ANNOUNCEMENT_PEER' })
  })

  it('ends the stream of a member that sends too much', async () => {
    const { connect } = await hosted()
    const { stream, ended } = await connect(CLIENT)
    for (let count = 0; count < MAX_MESSAGES_PER_MINUTE; count++) await stream.sync(NOTHING)
    expect(await stream.read(soon())).toMatchObject({ complete: true })
    await stream.sync(NOTHING)
    expect(await ended).toMatchObject({ code: 'E_BUSY', retryable: true })
  })

  it('ends the stream of a member that sends too long a message', async () => {
    const { connect } = await hosted()
    const { near, ended } = await connect(SERVER)
    const member = new ControlStream(near, { ...asMember, maxMessageBytes: Infinity })
    const value = new Uint8Array(MAX_MEMBER_MESSAGE_BYTES)
    await member.write(create(MemberMessageSchema, { message: { case: 'announcement', value } }))
    expect(await ended).toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
  })

  it('has one stream a member: the newest', async () => {
    const { connect } = await hosted()
    const older = await connect(CLIENT)
    await older.stream.sync(NOTHING)
    await older.stream.read(soon())
    const newer = await connect(CLIENT)
    await newer.stream.sync(NOTHING)
    await newer.stream.read(soon())
    await older.ended
    await expect(older.stream.read(soon())).rejects.toMatchObject({ code: 'E_CHANNEL_CLOSED' })
  })

  it('tells a peer that is no member nothing', async () => {
    const { connect } = await hosted()
    const { stream } = await connect(9)
    await stream.sync(NOTHING)
    const answer = stream.read(AbortSignal.timeout(100)).then(() => 'told', () => 'not told')
    await sleep(20)
    expect(await answer).toBe('not told')
  })
})

describe('a member', () => {
  /** A coordinator that says what no coordinator says, and the stream of a member that hears it. */
  async function told (update: object): Promise<DirectoryStream> {
    const [near, far] = await streamPair()
    const coordinator = new ControlStream(far, { ...asHost, maxMessageBytes: Infinity })
    const stream = new DirectoryStream(near, scope)
    // The member may end the stream before it has taken all of it.
    void coordinator.write(create(UpdateSchema, update)).catch(() => {})
    return stream
  }

  it('takes no directory of more servers than there may be', async () => {
    const stream = await told({ entries: Array.from({ length: MAX_SERVERS + 1 }, () => new Uint8Array(0)) })
    await expect(stream.read(soon())).rejects.toThrow(`a directory of ${MAX_SERVERS + 1} servers`)
  })

  it.each([
    ['to no blocks', {}],
    ['to blocks that are reversed', { to: { first: 5, end: 3 } }],
    ['to blocks outside of the middle', { to: { first: 0, end: 3 } }],
    ['for a reason that is too long', { to: { first: 2, end: 3 }, reason: 'x'.repeat(MAX_REASON_CHARS + 1) }]
  ])('takes no move %s', async (_, move) => {
    await expect((await told({ move })).read(soon())).rejects.toMatchObject({ code: 'E_BAD_MESSAGE' })
  })

  it('takes no update that is too long', async () => {
    const stream = await told({ revocations: new Uint8Array(MAX_UPDATE_BYTES) })
    await expect(stream.read(soon())).rejects.toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
  })
})
