import { fromBinary } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { streamPair } from '@libp2p/utils'
import { roles, type Roles } from '../../src/node/daemon/roles.ts'
import { decodeFrames, encodeHead } from '../../src/protocols/wire/framing.ts'
import { sealedBytes } from '../../src/protocols/wire/records.ts'
import { StreamSource } from '../../src/protocols/wire/source.ts'
import { FrameHeaderSchema } from '../../src/protocols/wire/wire_pb.ts'

export type Direction = 'c2s' | 's2c'

/** What a tap does with a sealed frame: the frames that it passes on, and whether the stream ends there. */
export type Attack = (
  frame: Buffer,
  at: { readonly protocol: string, readonly direction: Direction, readonly index: number }
) => Buffer[] | 'end'

/** All that passed on one stream. */
export interface TappedStream {
  readonly protocol: string
  /** Handshake messages as they were: Open and Confirm up, Offer down. */
  readonly handshake: Record<Direction, Buffer[]>
  /** Sealed frames as they came into the tap. */
  readonly frames: Record<Direction, Buffer[]>
}

const HANDSHAKE_FRAMES = { c2s: 2, s2c: 1 } as const
const IDLE_MS = 60_000

/**
 * An application-level hop between one client and its server: sees all that the streams inside libp2p's own encryption carry, and may
 * change it.
 */
export class Tap {
  readonly streams: TappedStream[] = []
  attack: Attack = (frame) => [frame]

  /** A client's roles whose streams pass through this tap. */
  get roles (): Roles {
    return {
      ...roles,
      client: async (context) =>
        await roles.client({
          ...context,
          dial: async (peer, protocol, signal) => await this.#through(protocol, await context.dial(peer, protocol, signal))
        })
    }
  }

  get bytes (): Buffer {
    return Buffer.concat(
      this.streams.flatMap(({ handshake, frames }) => [...handshake.c2s, ...handshake.s2c, ...frames.c2s, ...frames.s2c])
    )
  }

  async #through (protocol: string, far: Stream): Promise<Stream> {
    const [outer, near] = await streamPair()
    const tapped: TappedStream = { protocol, handshake: { c2s: [], s2c: [] }, frames: { c2s: [], s2c: [] } }
    this.streams.push(tapped)
    this.#forward(tapped, 'c2s', near, far)
    this.#forward(tapped, 's2c', far, near)
    return outer
  }

  #forward (tapped: TappedStream, direction: Direction, from: Stream, to: Stream): void {
    const source = new StreamSource(from, IDLE_MS)
    void (async () => {
      for await (const frame of wholeFrames(source, HANDSHAKE_FRAMES[direction])) {
        if (tapped.handshake[direction].length < HANDSHAKE_FRAMES[direction]) {
          tapped.handshake[direction].push(frame)
          to.send(frame)
          continue
        }
        const index = tapped.frames[direction].push(frame) - 1
        const passed = this.attack(frame, { protocol: tapped.protocol, direction, index })
        if (passed === 'end') break
        for (const bytes of passed) to.send(bytes)
      }
      await to.close()
    })().catch((error: Error) => { to.abort(error) })
  }
}

async function * wholeFrames (source: StreamSource, handshakeFrames: number): AsyncGenerator<Buffer> {
  let count = 0
  let parts: Uint8Array[] = []
  const format = {
    maxHeaderBytes: 4096,
    parse: (header: Uint8Array) => ({
      header,
      payloadBytes: count < handshakeFrames ? 0 : sealedBytes(fromBinary(FrameHeaderSchema, header).bodyLength)
    })
  }
  for await (const part of decodeFrames(source, format)) {
    parts.push(part.header === undefined ? part.piece : encodeHead(part.header))
    if ((part.header === undefined ? part.remainingBytes : part.payloadBytes) > 0) continue
    yield Buffer.concat(parts)
    parts = []
    count++
  }
}
