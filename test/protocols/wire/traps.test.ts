import { fork } from 'node:child_process'
import { once } from 'node:events'
import { create } from '@bufbuild/protobuf'
import { StringValueSchema, type StringValue } from '@bufbuild/protobuf/wkt'
import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { afterEach, describe, expect, it } from 'vitest'
import { openChannel } from '../../../src/protocols/wire/channel.ts'
import { MAX_STREAM_WINDOW_BYTES, PAUSE_AT_BYTES } from '../../../src/protocols/wire/constants.ts'
import { tensor, type Tensor } from '../../../src/tensor.ts'
import { channelPair, identityOf, type TextChannel, textOptions } from '../../helpers/channels.ts'
import { startTestNode } from '../../helpers/nodes.ts'
import { startSlowProxy } from '../../helpers/slow-proxy.ts'

const MiB = 2 ** 20
const PROTOCOL = '/midspan/test/1'
/** Several of the connection monitor's pings fall into every test here; by default it pings every 10 s. */
const IMPATIENT = { pingInterval: 1000 }

const cleanups: Array<() => unknown> = []
afterEach(async () => { for (const cleanup of cleanups.splice(0).reverse()) await cleanup() })

function text (value: string): StringValue {
  return create(StringValueSchema, { value })
}

function bytes (size: number): Tensor {
  const data = new Uint8Array(size)
  for (let at = 0; at < size; at += 997) data[at] = at
  return tensor('uint8', [size], data)
}

function portOf (node: Libp2p): number {
  return Number(node.getMultiaddrs()[0]?.getComponents().find(({ name }) => name === 'tcp')?.value)
}

/** A session between two nodes over TCP, the server reached through another port where one is given. */
async function connected (
  through?: (port: number) => Promise<number>
): Promise<{ client: TextChannel, server: TextChannel, connection: Connection, stream: Stream }> {
  const [near, far] = await Promise.all([
    startTestNode({ privateKey: await identityOf(1), listen: false, connectionMonitor: IMPATIENT }),
    startTestNode({ privateKey: await identityOf(2), connectionMonitor: IMPATIENT })
  ])
  cleanups.push(() => near.stop(), () => far.stop())
  const inbound = new Promise<Stream>((resolve) => { void far.handle(PROTOCOL, (stream) => { stream.pause(); resolve(stream) }) })
  const port = await through?.(portOf(far)) ?? portOf(far)
  const connection = await near.dial(multiaddr(`/ip4/127.0.0.1/tcp/${port}/p2p/${far.peerId.toString()}`))
  const stream = await connection.newStream(PROTOCOL)
  return { ...await channelPair({}, [stream, await inbound]), connection, stream }
}

describe('a sealed channel over TCP', () => {
  it('carries a frame of 64 MiB', async () => {
    const { client, server } = await connected()
    const sent = bytes(64 * MiB)
    const [received] = await Promise.all([server.receive(), client.send(text('big'), [sent])])
    expect(Buffer.compare(received.tensors[0]?.data as Uint8Array, sent.data as Uint8Array)).toBe(0)
  }, 20_000)

  it('holds back the sender while nobody receives, and loses nothing', async () => {
    const { client, server, stream } = await connected()
    const frame = bytes(8 * MiB)
    const sends = Array.from({ length: 12 }, async () => { await client.send(text('x'), [frame]) })
    await new Promise((resolve) => { setTimeout(resolve, 1000) })
    expect(server.traffic.receivedBytes).toBeLessThan(PAUSE_AT_BYTES + 2 * MiB)
    // What was received, a window that has grown to its greatest, and what the sender's stream holds.
    expect(client.traffic.sentBytes).toBeLessThan(PAUSE_AT_BYTES + 2 * MiB + MAX_STREAM_WINDOW_BYTES + 3 * MiB)
    expect(stream.writeBufferLength).toBeLessThan(3 * MiB)
    for (let index = 0; index < 12; index++)
      expect(Buffer.compare((await server.receive()).tensors[0]?.data as Uint8Array, frame.data as Uint8Array)).toBe(0)
    await Promise.all(sends)
  }, 20_000)

  it('outlives the connection monitor on an uplink of 1 MB/s', async () => {
    const { client, server, connection } = await connected(async (port) => {
      const proxy = await startSlowProxy(port, 1_000_000)
      cleanups.push(() => { proxy.close() })
      return proxy.port
    })
    const start = performance.now()
    const [received] = await Promise.all([server.receive(), client.send(text('slow'), [bytes(4_000_000)])])
    expect(performance.now() - start).toBeGreaterThan(3000)
    expect(received.tensors[0]?.data.byteLength).toBe(4_000_000)
    expect(connection.status).toBe('open')
  }, 20_000)

  it('outlives a peer whose event loop is blocked for 7 s', async () => {
    const child = fork(new URL('../../helpers/busy-peer.ts', import.meta.url))
    cleanups.push(() => { child.kill() })
    const [addresses] = await once(child, 'message') as [string[]]
    const node = await startTestNode({ privateKey: await identityOf(1), listen: false, connectionMonitor: IMPATIENT })
    cleanups.push(() => node.stop())
    const connection = await node.dial(addresses.map((address) => multiaddr(address)))
    const { client: options } = await textOptions()
    const channel = await openChannel(await connection.newStream(PROTOCOL), options)
    await channel.send(text('block 7000'))
    expect((await channel.receive()).message.value).toBe('block 7000')
    await channel.send(text('again'))
    expect((await channel.receive()).message.value).toBe('again')
    expect(connection.status).toBe('open')
  }, 20_000)

  it('reports a connection that broke', async () => {
    const { client, server, connection } = await connected()
    connection.abort(new Error('unplugged'))
    await expect(client.receive()).rejects.toMatchObject({ code: 'E_CHANNEL_RESET' })
    await expect(server.receive()).rejects.toMatchObject({ code: expect.stringMatching(/^E_(CHANNEL_RESET|FRAME_TRUNCATED)$/) as string })
    await expect(client.send(text('x'))).rejects.toMatchObject({ code: 'E_CHANNEL_RESET' })
  })
})
