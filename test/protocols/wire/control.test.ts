import { create } from '@bufbuild/protobuf'
import { StringValueSchema, type StringValue } from '@bufbuild/protobuf/wkt'
import { streamPair } from '@libp2p/utils'
import { describe, expect, it } from 'vitest'
import { UsageError } from '../../../src/errors.ts'
import { type ControlOptions, ControlStream } from '../../../src/protocols/wire/control.ts'

const MiB = 2 ** 20

function text (value: string): StringValue {
  return create(StringValueSchema, { value })
}

async function controlPair (
  changes: Partial<ControlOptions<StringValue, StringValue>> = {}
): Promise<Array<ControlStream<StringValue, StringValue>>> {
  const streams = await streamPair()
  return streams.map((stream) =>
    new ControlStream(stream, { outgoing: StringValueSchema, incoming: StringValueSchema, maxPayloadBytes: MiB, ...changes })
  )
}

describe('a control stream', () => {
  it('carries requests and answers with raw bytes beside them', async () => {
    const [client, server] = await controlPair() as [ControlStream<StringValue, StringValue>, ControlStream<StringValue, StringValue>]
    await client.write(text('read'))
    expect((await server.read()).message.value).toBe('read')
    const bytes = new Uint8Array(300_000).fill(3)
    await server.write(text('chunk'), bytes)
    await server.write(text('empty'))
    const chunk = await client.read()
    expect(chunk.message.value).toBe('chunk')
    expect(Buffer.compare(chunk.payload, bytes)).toBe(0)
    expect((await client.read()).payload.byteLength).toBe(0)
  })

  it('ends with a typed error when the peer closes', async () => {
    const [client, server] = await controlPair() as [ControlStream<StringValue, StringValue>, ControlStream<StringValue, StringValue>]
    await client.close()
    await expect(server.read()).rejects.toMatchObject({ code: 'E_CHANNEL_CLOSED' })
  })

  it('takes nothing once it has closed, whatever the peer goes on sending', async () => {
    const streams = await streamPair()
    const [client, server] = streams.map((stream) =>
      new ControlStream(stream, { outgoing: StringValueSchema, incoming: StringValueSchema })
    ) as [ControlStream<StringValue, StringValue>, ControlStream<StringValue, StringValue>]
    await server.close()
    expect(streams[1].readStatus).toBe('closed')
    await client.write(text('more')).catch(() => {})
    expect(streams[1].readBufferLength).toBe(0)
  })

  it('tells the peer why it gives up', async () => {
    const [client, server] = await controlPair() as [ControlStream<StringValue, StringValue>, ControlStream<StringValue, StringValue>]
    server.abort(new UsageError('no such file'))
    await expect(client.read()).rejects.toMatchObject({ name: 'RemoteError', code: 'E_USAGE', message: 'no such file' })
  })

  it('refuses what is above its limits, sent or received', async () => {
    const [client] = await controlPair({ maxMessageBytes: 100, maxPayloadBytes: 10 }) as [ControlStream<StringValue, StringValue>]
    await expect(client.write(text('x'.repeat(200)))).rejects.toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
    await expect(client.write(text('x'), new Uint8Array(11))).rejects.toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
    const [outbound, inbound] = await streamPair()
    const generous = new ControlStream(outbound, { outgoing: StringValueSchema, incoming: StringValueSchema, maxPayloadBytes: MiB })
    const strict = new ControlStream(inbound, { outgoing: StringValueSchema, incoming: StringValueSchema, maxPayloadBytes: 10 })
    await generous.write(text('x'), new Uint8Array(11))
    await expect(strict.read()).rejects.toMatchObject({ code: 'E_FRAME_TOO_LARGE' })
  })

  it('gives up on a silent peer', async () => {
    const [client] = await controlPair({ timeoutMs: 30 }) as [ControlStream<StringValue, StringValue>]
    await expect(client.read()).rejects.toMatchObject({ code: 'E_CHANNEL_TIMEOUT' })
  })
})
