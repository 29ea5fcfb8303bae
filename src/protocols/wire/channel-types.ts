import type { Message } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'
import type { PeerId } from '@libp2p/interface'
import type { Tensor } from '../../tensor.ts'
import type { BodyLimits } from './body.ts'
import type { Parties } from './handshake.ts'
import type { FrameKind } from './records.ts'
import type { RekeyPolicy } from './sealer.ts'

/** A message and the tensors that came with it; the tensors own their memory. */
export interface Received<M> {
  readonly message: M
  readonly tensors: readonly Tensor[]
}

/** Counts as on the stream: ciphertext, headers and the handshake included. */
export interface Traffic {
  readonly sentBytes: number
  readonly receivedBytes: number
  readonly sentFrames: number
  readonly receivedFrames: number
}

/** One frame, as told to `onFrame`. */
export interface FrameInfo {
  readonly direction: 'sent' | 'received'
  readonly kind: FrameKind
  readonly sequence: number
  /** Plaintext. */
  readonly bodyBytes: number
  /** On the stream, without the header. */
  readonly sealedBytes: number
}

/** A sealed session over one stream. Every error but a refused `send` ends it. */
export interface Channel<Out, In> {
  /** 32 hexadecimal digits. */
  readonly sessionId: string
  readonly remotePeer: PeerId
  readonly traffic: Traffic
  /**
   * Sends a message with its tensors, after those before it; resolves when the stream can take more, and leaves the tensors alone then.
   * The signal counts until the frame begins. Throws FrameTooLargeError (nothing was sent), ChannelClosedError, ChannelResetError,
   * ChannelTimeoutError.
   */
  send (message: Out, tensors?: readonly Tensor[], signal?: AbortSignal): Promise<void>
  /**
   * The next message. One call at a time: a message whose receiver gave up by its signal goes to the next call.
   * Throws ChannelClosedError after the peer's goodbye, RemoteError with its reason, and the errors of errors.ts.
   */
  receive (signal?: AbortSignal): Promise<Received<In>>
  /** Says goodbye after what is still being sent, waits shortly for the peer's, and lets go of stream and keys. */
  close (signal?: AbortSignal): Promise<void>
  /** Tells the peer why, where a whole frame still fits in, and resets the stream. */
  abort (error: Error): void
}

export interface ChannelOptions<Out extends Message, In extends Message> extends Parties {
  readonly outgoing: GenMessage<Out>
  readonly incoming: GenMessage<In>
  /** What one frame may hold, in either direction. */
  readonly limits: BodyLimits
  /**
   * How long a receive may wait for a frame; 5 minutes unless given, Infinity for ever. A frame that was begun, in either direction, may
   * stand still for a minute, or for this long where that is less.
   */
  readonly idleTimeoutMs?: number
  /** 30 s unless given. */
  readonly handshakeTimeoutMs?: number
  readonly rekey?: RekeyPolicy
  readonly onFrame?: (frame: FrameInfo) => void
}
