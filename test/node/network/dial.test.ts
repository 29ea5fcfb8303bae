import { once } from 'node:events'
import { createServer } from 'node:net'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { describe, expect, it, onTestFinished } from 'vitest'
import { dialPeer, reasonOf } from '../../../src/node/network/dial.ts'
import { createMidspanNode, startNode, type MidspanNode } from '../../../src/node/network/libp2p.ts'
import { checkAnnounced } from '../../../src/node/network/transports.ts'
import { loopback } from '../fixture.ts'

async function nodeOf (listen: string[] = [], announce: string[] = []): Promise<MidspanNode> {
  const node = await createMidspanNode({ privateKey: await generateKeyPair('Ed25519'), role: 'server', listen, announce })
  onTestFinished(async () => { await node.stop() })
  return node
}

/** A port where nobody listens, and one where somebody listens and never answers. */
async function ports (): Promise<{ closed: number, mute: number }> {
  const [first, second] = [createServer(), createServer()]
  for (const server of [first, second]) {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
  }
  const [closed, mute] = [first, second].map((server) => (server.address() as { port: number }).port) as [number, number]
  first.close()
  second.on('connection', (socket) => { socket.on('error', () => {}) })
  onTestFinished(() => { second.close() })
  return { closed, mute }
}

const soon = (): AbortSignal => AbortSignal.timeout(15_000)

describe('dialling a peer', { timeout: 40_000 }, () => {
  it('finds the one address that answers behind several that do not', async () => {
    const server = await nodeOf(loopback)
    await server.start()
    const client = await nodeOf()
    await client.start()
    const { closed, mute } = await ports()
    const addresses = [closed, mute, mute].map((port) => multiaddr(`/ip4/127.0.0.1/tcp/${port}`))
    const connection = await dialPeer(client, server.peerId, [...addresses, ...server.getMultiaddrs()], 'the server', soon())
    expect(connection.remotePeer.equals(server.peerId)).toBe(true)
    const stream = await connection.newStream('/ipfs/ping/1.0.0')
    expect(stream.status).toBe('open')
  })

  it('names each address and why it failed', async () => {
    const other = await nodeOf(loopback)
    await other.start()
    const client = await nodeOf()
    await client.start()
    const { closed } = await ports()
    const elsewhere = other.getMultiaddrs()[0]?.toString().split('/p2p/')[0] ?? ''
    const peer = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
    const addresses = [`/ip4/127.0.0.1/tcp/${closed}`, elsewhere, '/ip4/127.0.0.1/udp/1/quic-v1', '/ip4/127.0.0.1/tcp/1/ws']
    await expect(dialPeer(client, peer, addresses.map((address) => multiaddr(address)), 'the server', soon())).rejects.toMatchObject({
      code: 'E_UNREACHABLE',
      message: `the server cannot be reached: /ip4/127.0.0.1/tcp/${closed}: connection refused; ` +
        `${elsewhere}: another peer answers there; ` +
        '/ip4/127.0.0.1/udp/1/quic-v1: it needs QUIC, and Midspan speaks TCP; ' +
        '/ip4/127.0.0.1/tcp/1/ws: it needs WebSocket, and Midspan speaks TCP'
    })
  })

  it.each([['EMFILE', 'ulimit'], ['ENFILE', 'too many files'], ['EACCES', 'does not allow'], ['ENOBUFS', 'no memory']])(
    'says of %s that it is this machine\'s', (code, words) => {
      expect(reasonOf(Object.assign(new Error(`connect ${code}`), { code }))).toContain(words)
    }
  )

  it('ends with its signal', async () => {
    const client = await nodeOf()
    await client.start()
    const { mute } = await ports()
    const peer = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
    const given = new AbortController()
    const dialled = dialPeer(client, peer, [multiaddr(`/ip4/127.0.0.1/tcp/${mute}`)], 'the server', given.signal)
    setTimeout(() => { given.abort(new Error('enough')) }, 50)
    await expect(dialled).rejects.toThrow('enough')
  })
})

describe('listening', () => {
  it.each(['/ip4/127.0.0.1/udp/0/quic-v1', '/ip4/127.0.0.1/tcp/0/ws'])('is refused %s beside a good address, by name', async (address) => {
    const listen = [...loopback, address]
    await expect(startNode(await nodeOf(listen), listen)).rejects.toMatchObject({
      code: 'E_USAGE',
      message: expect.stringContaining(`cannot listen on ${address}: it needs `) as string
    })
  })

  it('is told apart from announcing', async () => {
    const node = await nodeOf(loopback, ['/dns4/example.org/tcp/4001'])
    await startNode(node, loopback)
    expect(node.getMultiaddrs().map(String)).toEqual([`/dns4/example.org/tcp/4001/p2p/${node.peerId.toString()}`])
    expect(node.services.transports.getAddrs().map(String)).toEqual([expect.stringMatching(/^\/ip4\/127\.0\.0\.1\/tcp\/[1-9]\d*$/)])
  })
})

describe('announcing', () => {
  const peer = '12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X'

  it.each([
    ['/ip4/0.0.0.0/tcp/4001', /names no host/],
    ['/ip6/::/tcp/4001', /names no host/],
    ['/ip4/192.0.2.1/tcp/0', /names no port/],
    ['/ip4/192.0.2.1/udp/4001/quic-v1', /needs QUIC/],
    ['/ip4/192.0.2.1', /a host and a TCP port/],
    ['/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp', /address of the peer 12D3KooWEyopp/]
  ])('is refused %s, which no client can dial', (address, message) => {
    expect(() => { checkAnnounced(address, peer) }).toThrow(message)
  })

  it.each(['/dns4/example.org/tcp/4001', '/ip4/192.0.2.1/tcp/4001', `/ip4/192.0.2.1/tcp/4001/p2p/${peer}`])('takes %s', (address) => {
    expect(() => { checkAnnounced(address, peer) }).not.toThrow()
  })
})
