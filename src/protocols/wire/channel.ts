import type { Message } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import type { Channel, ChannelOptions } from './channel-types.ts'
import { HANDSHAKE_TIMEOUT_MS, IDLE_TIMEOUT_MS, STALL_TIMEOUT_MS } from './constants.ts'
import { ControlStream } from './control.ts'
import { agreeAsClient, agreeAsServer, type Medium } from './handshake.ts'
import { SealedChannel, type Side } from './sealed-channel.ts'
import { StreamSink } from './sink.ts'
import { StreamSource } from './source.ts'
import { withDeadline } from './wait.ts'
import { FailureSchema } from './wire_pb.ts'

export type { Channel, ChannelOptions, FrameInfo, Received, Traffic } from './channel-types.ts'

/** Agrees on a session's keys on a fresh stream, as its client. Resets the stream where that fails. */
export async function openChannel<Out extends Message, In extends Message> (
  stream: Stream,
  options: ChannelOptions<Out, In>,
  signal?: AbortSignal
): Promise<Channel<Out, In>> {
  return await establish(stream, options, 'client', signal)
}

/** The server's side of openChannel. Call it before the first await of a stream's handler. */
export async function acceptChannel<Out extends Message, In extends Message> (
  stream: Stream,
  options: ChannelOptions<Out, In>,
  signal?: AbortSignal
): Promise<Channel<Out, In>> {
  return await establish(stream, options, 'server', signal)
}

async function establish<Out extends Message, In extends Message> (
  stream: Stream,
  options: ChannelOptions<Out, In>,
  side: Side,
  signal?: AbortSignal
): Promise<Channel<Out, In>> {
  const idleTimeoutMs = options.idleTimeoutMs ?? IDLE_TIMEOUT_MS
  const stallTimeoutMs = Math.min(idleTimeoutMs, STALL_TIMEOUT_MS)
  const medium: Medium = {
    stream,
    source: new StreamSource(stream, idleTimeoutMs, stallTimeoutMs),
    sink: new StreamSink(stream, stallTimeoutMs)
  }
  const agree = side === 'client' ? agreeAsClient : agreeAsServer
  try {
    const agreement = await withDeadline(
      'no session was agreed',
      options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS,
      signal,
      async (deadline) => await agree(medium, options, deadline)
    )
    return new SealedChannel(medium, options, side, agreement)
  } catch (error) {
    const reason = error instanceof Error ? error : new Error(String(error))
    new ControlStream(stream, { outgoing: FailureSchema, incoming: FailureSchema }, medium.source, medium.sink).abort(reason)
    throw error
  }
}
