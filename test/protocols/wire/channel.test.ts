import { create } from '@bufbuild/protobuf'
import { AnySchema, StringValueSchema, type StringValue } from '@bufbuild/protobuf/wkt'
import type { Stream } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import type { Uint8ArrayList } from 'uint8arraylist'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { UsageError } from '../../../src/errors.ts'
import { acceptChannel, openChannel } from '../../../src/protocols/wire/channel.ts'
import { ABORT_TIMEOUT_MS, CLOSE_TIMEOUT_MS } from '../../../src/protocols/wire/constants.ts'
import { float32, int32, tensor, type Tensor } from '../../../src/tensor.ts'
import { channelPair, identityOf, textOptions, type TextChannel } from '../../helpers/channels.ts'

const MiB = 2 ** 20

function text (value: string): StringValue {
  return create(StringValueSchema, { value })
}

function bytes (size: number): Tensor {
  return tensor('uint8', [size], new Uint8Array(size))
}

/** A session whose server's stream takes no more than its first MiB until it is released, as where the client reads nothing. */
async function slowReaderPair (): Promise<{ client: TextChannel, server: TextChannel, streams: [Stream, Stream], release: () => void }> {
  const streams = await streamPair()
  const channels = await channelPair({}, streams)
  const parts = streams[1] as unknown as {
    sendData: (data: Uint8ArrayList) => { sentBytes: number, canSendMore: boolean }
    safeDispatchEvent: (name: string) => void
  }
  const send = parts.sendData.bind(parts)
  let roomBytes = MiB
  parts.sendData = (data) => {
    if (roomBytes <= 0) return { sentBytes: 0, canSendMore: false }
    roomBytes -= data.byteLength
    return send(data)
  }
  const release = (): void => {
    roomBytes = Infinity
    parts.safeDispatchEvent('drain')
  }
  return { ...channels, streams, release }
}

describe('a sealed channel', () => {
  it('carries messages with tensors both ways', async () => {
    const { client, server } = await channelPair()
    expect(client.sessionId).toMatch(/^[0-9a-f]{32}$/)
    expect(server.sessionId).toBe(client.sessionId)
    const tensors = [
      float32([2, 3], [1, 2, 3, 4, 5, 6]),
      tensor('int8', [3], Int8Array.of(-1, 0, 1)),
      int32([], [9]),
      tensor('int64', [1], BigInt64Array.of(-5n)),
      tensor('float16', [0, 4], new Uint16Array())
    ]
    await client.send(text('forward'), tensors)
    const received = await server.receive()
    expect(received.message.value).toBe('forward')
    expect(received.tensors).toEqual(tensors)
    await server.send(text('hidden'))
    expect((await client.receive()).message.value).toBe('hidden')
  })

  it('keeps the order of concurrent sends', async () => {
    const { client, server } = await channelPair()
    const sends = Array.from({ length: 20 }, async (_, index) => {
      await client.send(text(String(index)), [float32([index], new Float32Array(index))])
    })
    for (let index = 0; index < 20; index++) expect((await server.receive()).message.value).toBe(String(index))
    await Promise.all(sends)
  })

  it('carries records of several frames across epochs', async () => {
    let now = 0
    const { client, server } = await channelPair({ rekey: { afterBytes: 3_000_000, afterMs: 1000, now: () => now } })
    const big = float32([300_000], Float32Array.from({ length: 300_000 }, (_, index) => index))
    for (let round = 0; round < 4; round++) {
      const sent = client.send(text('big'), [big])
      expect((await server.receive()).tensors[0]?.data).toEqual(big.data)
      await sent
      now += 600
    }
  })

  it('counts the traffic of the stream', async () => {
    const { client, server } = await channelPair()
    await client.send(text('x'), [float32([1000], new Float32Array(1000))])
    await server.receive()
    expect(client.traffic.sentFrames).toBe(1)
    expect(server.traffic.receivedFrames).toBe(1)
    expect(client.traffic.sentBytes).toBe(server.traffic.receivedBytes)
    expect(client.traffic.sentBytes).toBeGreaterThan(4000)
  })

  it('ends in agreement when one side closes', async () => {
    const { client, server } = await channelPair()
    await client.send(text('last'))
    const closed = client.close()
    expect((await server.receive()).message.value).toBe('last')
    await expect(server.receive()).rejects.toMatchObject({ code: 'E_CHANNEL_CLOSED' })
    await closed
    await expect(client.send(text('late'))).rejects.toMatchObject({ code: 'E_CHANNEL_CLOSED' })
    await expect(client.receive()).rejects.toMatchObject({ code: 'E_CHANNEL_CLOSED' })
    await expect(server.send(text('late'))).rejects.toMatchObject({ code: 'E_CHANNEL_CLOSED' })
  })

  it('takes nothing once it has ended, whatever the peer goes on sending', async () => {
    const streams = await streamPair()
    const { client, server } = await channelPair({}, streams)
    streams[0].close = async () => {} // a peer that says goodbye and leaves its stream open
    const ended = server.receive().catch((error: unknown) => error)
    await client.close()
    expect(await ended).toMatchObject({ code: 'E_CHANNEL_CLOSED' })
    expect(streams[1].readStatus).toBe('closed')
  })

  it('ends where the peer says goodbye and takes no answer', async () => {
    const streams = await streamPair()
    const { client, server } = await channelPair({}, streams)
    streams[1].close = async (options) =>
      await new Promise<void>((_, reject) => {
        options?.signal?.addEventListener('abort', () => {
          reject(new Error('nobody took it'))
        })
      })
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => { vi.useRealTimers() })
    const ended = server.receive().catch((error: unknown) => error)
    const closed = client.close()
    await vi.advanceTimersByTimeAsync(2 * CLOSE_TIMEOUT_MS)
    expect(await ended).toMatchObject({ code: 'E_CHANNEL_CLOSED' })
    expect(streams[1].status).toBe('aborted')
    await closed
  })

  it('keeps nothing of fields that it does not know', async () => {
    const [outbound, inbound] = await streamPair()
    const options = await textOptions()
    const [client, server] = await Promise.all([
      openChannel(outbound, { ...options.client, outgoing: AnySchema }),
      acceptChannel(inbound, options.server)
    ])
    await client.send(create(AnySchema, { typeUrl: 'known', value: new Uint8Array(10) }))
    expect((await server.receive()).message).toEqual(text('known'))
  })

  it('delivers what was sent before both sides close at once', async () => {
    const { client, server } = await channelPair()
    await Promise.all([client.send(text('a')), server.send(text('b'))])
    await Promise.all([client.close(), server.close()])
  })

  it('tells the peer why it gives up', async () => {
    const { client, server } = await channelPair()
    server.abort(new UsageError('the quota\nis spent'))
    await expect(client.receive()).rejects.toMatchObject({ name: 'RemoteError', code: 'E_USAGE', message: 'the quota is spent' })
    await expect(client.send(text('x'))).rejects.toMatchObject({ code: 'E_USAGE' })
  })

  it('finishes the frame that it was sending before it tells the peer why it gives up', async () => {
    const { client, server, release } = await slowReaderPair()
    const sent = server.send(text('big'), [bytes(8 * MiB)])
    await vi.waitFor(() => { expect(server.traffic.sentBytes).toBeGreaterThan(MiB) })
    expect(server.traffic.sentBytes).toBeLessThan(8 * MiB)
    server.abort(new UsageError('the quota is spent'))
    release()
    expect((await client.receive()).tensors[0]?.data.byteLength).toBe(8 * MiB)
    await expect(client.receive()).rejects.toMatchObject({ code: 'E_USAGE', message: 'the quota is spent' })
    await sent
  })

  it('sends nothing of the frames that wait when it gives up', async () => {
    const { client, server, release } = await slowReaderPair()
    const sends = ['one', 'two', 'three'].map(async (word) => { await server.send(text(word), [bytes(8 * MiB)]) })
    await vi.waitFor(() => { expect(server.traffic.sentBytes).toBeGreaterThan(MiB) })
    server.abort(new UsageError('the quota is spent'))
    release()
    const ended = Promise.allSettled(sends)
    expect((await client.receive()).message.value).toBe('one')
    await expect(client.receive()).rejects.toMatchObject({ code: 'E_USAGE' })
    expect((await ended).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
  })

  it('waits a bounded time for a peer that does not read why', async () => {
    const { server, streams } = await slowReaderPair()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => { vi.useRealTimers() })
    const sent = server.send(text('big'), [bytes(8 * MiB)]).catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(10)
    server.abort(new UsageError('the quota is spent'))
    await vi.advanceTimersByTimeAsync(ABORT_TIMEOUT_MS)
    expect(streams[1].status).toBe('aborted')
    expect(await sent).toMatchObject({ code: 'E_USAGE' })
  })

  it.each(['closed', 'reset'] as const)('hears why the peer gave up where it sends on a stream that is %s since', async (how) => {
    const streams = await streamPair()
    const { client, server } = await channelPair({}, streams)
    const { receivedBytes } = client.traffic
    server.abort(new UsageError('the quota is spent'))
    await vi.waitFor(() => { expect(client.traffic.receivedBytes).toBeGreaterThan(receivedBytes) })
    const stream = streams[0] as unknown as { onTransportClosed: () => void, onRemoteReset: () => void }
    if (how === 'closed') stream.onTransportClosed()
    else stream.onRemoteReset()
    await expect(client.send(text('x'))).rejects.toMatchObject({ code: 'E_USAGE', message: 'the quota is spent' })
  })

  it('keeps the words of unexpected errors to itself', async () => {
    const { client, server } = await channelPair()
    server.abort(new Error('a secret'))
    await expect(client.receive()).rejects.toMatchObject({ code: 'E_INTERNAL', message: 'an internal error' })
  })

  it('refuses to send above a limit, and lives on', async () => {
    const { client, server } = await channelPair({ limits: { maxMessageBytes: 100, maxTensorBytes: 1000, maxTensors: 1 } })
    await expect(client.send(text('x'.repeat(200)))).rejects.toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
    await expect(client.send(text('x'), [float32([300], new Float32Array(300))])).rejects.toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
    await expect(client.send(text('x'), [int32([1], [1]), int32([1], [1])])).rejects.toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
    await client.send(text('fits'))
    expect((await server.receive()).message.value).toBe('fits')
  })

  it('leaves a message to the next call when a receiver gives up', async () => {
    const { client, server } = await channelPair()
    await expect(server.receive(AbortSignal.timeout(20))).rejects.toMatchObject({ name: 'TimeoutError' })
    await client.send(text('kept'))
    expect((await server.receive()).message.value).toBe('kept')
  })

  it('gives up after too long a silence', async () => {
    const { client, server } = await channelPair({ idleTimeoutMs: 1_000 })
    await expect(server.receive()).rejects.toMatchObject({ code: 'E_CHANNEL_TIMEOUT' })
    await expect(client.receive()).rejects.toMatchObject({ code: 'E_CHANNEL_TIMEOUT' })
  })
})

describe('the agreement on a session', () => {
  it('fails between different charters, and both learn why', async () => {
    const [outbound, inbound] = await streamPair()
    const { client, server } = await textOptions()
    const results = await Promise.allSettled([
      openChannel(outbound, client),
      acceptChannel(inbound, { ...server, charter: new Uint8Array(32) })
    ])
    for (const result of results) expect(result).toMatchObject({ status: 'rejected', reason: { code: 'E_CHARTER_MISMATCH' } })
  })

  it('fails where the server is not the expected peer', async () => {
    const [outbound, inbound] = await streamPair()
    const { client, server } = await textOptions()
    const stranger = await identityOf(3)
    const results = await Promise.allSettled([openChannel(outbound, client), acceptChannel(inbound, { ...server, identity: stranger })])
    expect(results[0]).toMatchObject({ status: 'rejected', reason: { code: 'E_HANDSHAKE' } })
    expect(results[1].status).toBe('rejected')
  })

  it('fails where the client is not the expected peer', async () => {
    const [outbound, inbound] = await streamPair()
    const { client, server } = await textOptions()
    const opened = openChannel(outbound, client)
    const accepted = acceptChannel(inbound, { ...server, remotePeer: peerIdFromPrivateKey(await identityOf(3)) })
    const [first, second] = await Promise.allSettled([opened, accepted])
    expect(first).toMatchObject({ status: 'rejected', reason: { code: 'E_HANDSHAKE' } })
    expect(second.status).toBe('rejected')
  })

  it('does not wait for ever', async () => {
    const [outbound] = await streamPair()
    const { client } = await textOptions({ handshakeTimeoutMs: 50 })
    await expect(openChannel(outbound, client)).rejects.toMatchObject({ code: 'E_CHANNEL_TIMEOUT' })
  })

  it('honours a signal', async () => {
    const [outbound] = await streamPair()
    const { client } = await textOptions()
    await expect(openChannel(outbound, client, AbortSignal.timeout(20))).rejects.toMatchObject({ name: 'TimeoutError' })
  })
})
