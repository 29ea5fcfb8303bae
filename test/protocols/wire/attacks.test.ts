import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { StringValueSchema, type StringValue } from '@bufbuild/protobuf/wkt'
import type { Stream } from '@libp2p/interface'
import { streamPair } from '@libp2p/utils'
import { describe, expect, it } from 'vitest'
import { decodeFrames, encodeHead } from '../../../src/protocols/wire/framing.ts'
import { sealedBytes } from '../../../src/protocols/wire/records.ts'
import { StreamSource } from '../../../src/protocols/wire/source.ts'
import { FrameHeaderSchema } from '../../../src/protocols/wire/wire_pb.ts'
import { bytesOf, float32 } from '../../../src/tensor.ts'
import { channelPair, type TextChannel } from '../../helpers/channels.ts'

/** What a relay between the peers does with the client's next sealed frame: the frames that it passes on. */
type Attack = (frame: Buffer, index: number) => Buffer[]

interface Tapped {
  readonly client: TextChannel
  readonly server: TextChannel
  readonly frames: Buffer[]
  readonly bytes: Buffer[]
  readonly toServer: Stream
}

/** Open and Confirm go before the client's first sealed frame. */
const HANDSHAKE_FRAMES = 2

/** A session whose two streams end at a relay, which sees all bytes and applies an attack to the client's sealed frames. */
async function tapped (attack: Attack = (frame) => [frame]): Promise<Tapped> {
  const [outbound, fromClient] = await streamPair()
  const [toServer, inbound] = await streamPair()
  const frames: Buffer[] = []
  const bytes: Buffer[] = []
  void (async () => {
    let count = 0
    let frame: Uint8Array[] = []
    const format = {
      maxHeaderBytes: 4096,
      parse: (header: Uint8Array) => ({
        header,
        payloadBytes: count < HANDSHAKE_FRAMES ? 0 : sealedBytes(fromBinary(FrameHeaderSchema, header).bodyLength)
      })
    }
    const finish = (): void => {
      const whole = Buffer.concat(frame)
      frame = []
      bytes.push(whole)
      if (count++ < HANDSHAKE_FRAMES) { toServer.send(whole); return }
      frames.push(whole)
      for (const passed of attack(whole, frames.length - 1)) toServer.send(passed)
    }
    for await (const part of decodeFrames(new StreamSource(fromClient, 5000), format)) {
      if (part.header !== undefined) frame.push(encodeHead(part.header))
      else frame.push(part.piece)
      if (part.header !== undefined ? part.payloadBytes === 0 : part.remainingBytes === 0) finish()
    }
    await toServer.close()
  })().catch(() => {})
  void (async () => {
    for await (const chunk of new StreamSource(toServer, 5000)) {
      bytes.push(Buffer.from(chunk))
      fromClient.send(chunk)
    }
  })().catch(() => {})
  return { ...await channelPair({}, [outbound, inbound]), frames, bytes, toServer }
}

function text (value: string): StringValue {
  return create(StringValueSchema, { value })
}

/** Sends three messages and returns what the server read until it failed, and how. */
async function outcome ({ client, server }: Tapped): Promise<{ read: string[], code: string }> {
  for (const value of ['first', 'second', 'third']) await client.send(text(value))
  const read: string[] = []
  for (;;) {
    try {
      read.push((await server.receive()).message.value)
    } catch (error) {
      await expect(server.receive()).rejects.toBe(error)
      return { read, code: (error as { code: string }).code }
    }
  }
}

function changedHeader (
  frame: Buffer,
  changes: Partial<{ session: Uint8Array, sequence: number, kind: number, bodyLength: number, epoch: number }>
): Buffer {
  const end = 1 + (frame[0] ?? 0)
  const header = fromBinary(FrameHeaderSchema, frame.subarray(1, end))
  return Buffer.concat([encodeHead(toBinary(FrameHeaderSchema, Object.assign(header, changes))), frame.subarray(end)])
}

function flipped (frame: Buffer, at: number): Buffer {
  const copy = Buffer.from(frame)
  copy[at] = (copy[at] ?? 0) ^ 1
  return copy
}

describe('a relay between the peers', () => {
  it('cannot alter a frame', async () => {
    expect(await outcome(await tapped((frame, index) => [index === 1 ? flipped(frame, frame.length - 20) : frame]))).toEqual({
      read: ['first'],
      code: 'E_FRAME_FORGED'
    })
  })

  it('cannot alter a tag', async () => {
    expect(await outcome(await tapped((frame, index) => [index === 1 ? flipped(frame, frame.length - 1) : frame]))).toEqual({
      read: ['first'],
      code: 'E_FRAME_FORGED'
    })
  })

  it('cannot turn a message into a goodbye', async () => {
    expect(await outcome(await tapped((frame, index) => [index === 1 ? changedHeader(frame, { kind: 2 }) : frame]))).toEqual({
      read: ['first'],
      code: 'E_FRAME_FORGED'
    })
  })

  it('cannot move a frame to another epoch', async () => {
    expect(await outcome(await tapped((frame, index) => [index === 1 ? changedHeader(frame, { epoch: 1 }) : frame]))).toEqual({
      read: ['first'],
      code: 'E_FRAME_FORGED'
    })
  })

  it('cannot replay a frame', async () => {
    expect(await outcome(await tapped((frame, index) => index === 1 ? [frame, frame] : [frame]))).toEqual({
      read: ['first', 'second'],
      code: 'E_FRAME_REPLAYED'
    })
  })

  it('cannot replay a frame under a new number', async () => {
    expect(await outcome(await tapped((frame, index) => index === 1 ? [frame, changedHeader(frame, { sequence: 2 })] : [frame]))).toEqual({
      read: ['first', 'second'],
      code: 'E_FRAME_FORGED'
    })
  })

  it('cannot reorder or drop frames', async () => {
    expect(await outcome(await tapped((frame, index) => index === 1 ? [] : [frame]))).toEqual({
      read: ['first'],
      code: 'E_FRAME_REORDERED'
    })
  })

  it('cannot end the stream between two frames', async () => {
    const session = await tapped()
    await session.client.send(text('first'))
    expect((await session.server.receive()).message.value).toBe('first')
    await session.toServer.close()
    await expect(session.server.receive()).rejects.toMatchObject({ code: 'E_FRAME_TRUNCATED' })
  })

  it('cannot cut a frame short', async () => {
    const session = await tapped((frame) => [frame.subarray(0, frame.length - 5)])
    await session.client.send(text('first'))
    while (session.frames.length === 0) await new Promise((resolve) => { setTimeout(resolve, 5) })
    await session.toServer.close()
    await expect(session.server.receive()).rejects.toMatchObject({ code: 'E_FRAME_TRUNCATED' })
  })

  it('cannot bring a frame of another session', async () => {
    const other = await tapped()
    for (const value of ['one', 'two']) await other.client.send(text(value))
    while (other.frames.length < 2) await new Promise((resolve) => { setTimeout(resolve, 5) })
    const stolen = other.frames[1] as Buffer
    expect(await outcome(await tapped((frame, index) => [index === 1 ? stolen : frame]))).toEqual({
      read: ['first'],
      code: 'E_FRAME_FOREIGN'
    })
  })

  it('cannot relabel a frame of another session', async () => {
    const other = await tapped()
    await other.client.send(text('one'))
    while (other.frames.length < 1) await new Promise((resolve) => { setTimeout(resolve, 5) })
    const stolen = other.frames[0] as Buffer
    const attack: Attack = (frame, index) => {
      const { session } = fromBinary(FrameHeaderSchema, frame.subarray(1, 1 + (frame[0] ?? 0)))
      return [index === 1 ? changedHeader(stolen, { session, sequence: 1 }) : frame]
    }
    expect(await outcome(await tapped(attack))).toEqual({ read: ['first'], code: 'E_FRAME_FORGED' })
  })

  it('cannot make a frame larger than the limits allow', async () => {
    expect(await outcome(await tapped((frame, index) => [index === 1 ? changedHeader(frame, { bodyLength: 2 ** 32 - 1 }) : frame])))
      .toEqual({ read: ['first'], code: 'E_FRAME_TOO_LARGE' })
  })

  it('tells the sender that its frames were refused', async () => {
    const session = await tapped((frame) => [flipped(frame, frame.length - 1)])
    await outcome(session)
    await expect(session.client.receive()).rejects.toMatchObject({ name: 'RemoteError', code: 'E_FRAME_FORGED' })
  })

  it('sees no byte of a tensor', async () => {
    const session = await tapped()
    const known = float32([64, 64], Float32Array.from({ length: 4096 }, (_, index) => Math.sin(index)))
    const received = session.server.receive()
    await session.client.send(text('a sentence that nobody else may read'), [known])
    const { message, tensors } = await received
    await session.server.send(message, tensors)
    await session.client.receive()
    const tap = Buffer.concat(session.bytes)
    expect(tap.byteLength).toBeGreaterThan(2 * 16384)
    expect(tap.includes('nobody else')).toBe(false)
    const plain = Buffer.from(bytesOf(known))
    for (let at = 0; at < plain.byteLength; at += 16) expect(tap.includes(plain.subarray(at, at + 16))).toBe(false)
  })
})
