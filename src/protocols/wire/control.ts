import { create, type Message, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'
import type { Stream } from '@libp2p/interface'
import { Uint8ArrayList } from 'uint8arraylist'
import {
  ABORT_TIMEOUT_MS,
  CONTROL_TIMEOUT_MS,
  MAX_CONTROL_MESSAGE_BYTES,
  MAX_CONTROL_PAYLOAD_BYTES,
  MAX_FAILURE_MESSAGE_CHARS
} from './constants.ts'
import { ChannelClosedError, FrameMalformedError, FrameTooLargeError } from './errors.ts'
import { failureOf, remoteErrorOf } from './failure.ts'
import { decodeFrames, encodeHead, type FrameFormat, type FramePart } from './framing.ts'
import { parseMessage } from './parse.ts'
import { StreamSink } from './sink.ts'
import { StreamSource } from './source.ts'
import { withSignal } from './wait.ts'
import { type ControlHeader, ControlHeaderSchema } from './wire_pb.ts'

export interface ControlOptions<Out extends Message, In extends Message> {
  readonly outgoing: GenMessage<Out>
  readonly incoming: GenMessage<In>
  /** The largest message in either direction; 256 KiB unless given. */
  readonly maxMessageBytes?: number
  /** The largest message that is taken in, where it differs. */
  readonly maxIncomingBytes?: number
  /** The largest payload beside a message; 0 unless given, at most 1 MiB. */
  readonly maxPayloadBytes?: number
  /** How long one read or write may make no progress; 60 s unless given. */
  readonly timeoutMs?: number
}

export interface ControlFrame<M> {
  readonly message: M
  /** Raw bytes beside the message; empty where there are none. */
  readonly payload: Uint8Array
}

/** The parts of a control header beside its message: tags, lengths, a failure of bounded text. */
const CONTROL_HEADER_OVERHEAD_BYTES = 128 + 4 * MAX_FAILURE_MESSAGE_CHARS

/**
 * Small protobuf messages, each with an optional raw payload, over a stream of their own: for protocols that need no sealing
 * beyond the connection's. Construct it before the first await of a handler.
 */
export class ControlStream<Out extends Message, In extends Message> {
  readonly #stream: Stream
  readonly #options: ControlOptions<Out, In>
  readonly #source: StreamSource
  readonly #sink: StreamSink
  readonly #parts: AsyncGenerator<FramePart<ControlHeader>>
  readonly #maxMessageBytes: number
  readonly #maxPayloadBytes: number

  constructor (stream: Stream, options: ControlOptions<Out, In>, source?: StreamSource, sink?: StreamSink) {
    const timeoutMs = options.timeoutMs ?? CONTROL_TIMEOUT_MS
    this.#stream = stream
    this.#options = options
    this.#maxMessageBytes = options.maxMessageBytes ?? MAX_CONTROL_MESSAGE_BYTES
    this.#maxPayloadBytes = Math.min(options.maxPayloadBytes ?? 0, MAX_CONTROL_PAYLOAD_BYTES)
    this.#source = source ?? new StreamSource(stream, timeoutMs)
    this.#sink = sink ?? new StreamSink(stream, timeoutMs)
    this.#parts = decodeFrames(this.#source, controlFormat(options.maxIncomingBytes ?? this.#maxMessageBytes, this.#maxPayloadBytes))
  }

  /**
   * Sends a message and, with it, raw bytes. Resolves when the stream can take more.
   * Throws FrameTooLargeError before anything is sent, ChannelTimeoutError, ChannelResetError, ChannelClosedError.
   */
  async write (message: Out, payload: Uint8Array = new Uint8Array(0), signal?: AbortSignal): Promise<void> {
    const bytes = toBinary(this.#options.outgoing, message)
    if (bytes.byteLength > this.#maxMessageBytes) throw new FrameTooLargeError('a message', bytes.byteLength, this.#maxMessageBytes)
    if (payload.byteLength > this.#maxPayloadBytes) throw new FrameTooLargeError('a payload', payload.byteLength, this.#maxPayloadBytes)
    const head = controlHead({ message: bytes, payloadLength: payload.byteLength })
    await this.#sink.exclusively(async () => { await withSignal(this.#sink.write(new Uint8ArrayList(head, payload)), signal) }, signal)
  }

  /**
   * The peer's next message. One read at a time; one that is given up by its signal spoils the stream, so abort it then.
   * Throws RemoteError with the peer's reason, ChannelClosedError at the end, and typed errors for all else.
   */
  async read (signal?: AbortSignal): Promise<ControlFrame<In>> {
    return await withSignal(this.#read(), signal)
  }

  /** Says that no more will be sent, once the last bytes have left, and takes no more: what a peer went on sending would gather unread. */
  async close (signal?: AbortSignal): Promise<void> {
    const options = signal === undefined ? {} : { signal }
    await this.#stream.close(options)
    await this.#stream.closeRead(options)
  }

  /** Tells the peer why, where it can still be told, and resets the stream. */
  abort (error: Error): void {
    void tellAndReset(this.#stream, this.#sink, error, () => [new Uint8ArrayList(controlHead({ failure: failureOf(error) }))])
  }

  async #read (): Promise<ControlFrame<In>> {
    const first = await this.#parts.next()
    if (first.done === true) throw new ChannelClosedError()
    const { header } = first.value
    if (header === undefined) throw new FrameMalformedError('a payload without its message')
    const payload = await this.#readPayload(header.payloadLength)
    if (header.failure !== undefined) throw remoteErrorOf(header.failure)
    return { message: parseMessage(this.#options.incoming, header.message, 'its message'), payload }
  }

  async #readPayload (bytes: number): Promise<Uint8Array> {
    const payload = Buffer.allocUnsafeSlow(bytes)
    for (let offset = 0; offset < bytes;) {
      const part = await this.#parts.next()
      if (part.done === true || part.value.header !== undefined) throw new FrameMalformedError('its payload is incomplete')
      payload.set(part.value.piece, offset)
      offset += part.value.piece.byteLength
    }
    return payload
  }
}

function controlHead (header: MessageInitShape<typeof ControlHeaderSchema>): Uint8Array {
  return encodeHead(toBinary(ControlHeaderSchema, create(ControlHeaderSchema, header)))
}

function controlFormat (maxMessageBytes: number, maxPayloadBytes: number): FrameFormat<ControlHeader> {
  return {
    maxHeaderBytes: maxMessageBytes + CONTROL_HEADER_OVERHEAD_BYTES,
    parse (bytes) {
      const header = parseMessage(ControlHeaderSchema, bytes, 'its header')
      if (header.message.byteLength > maxMessageBytes) throw new FrameTooLargeError('a message', header.message.byteLength, maxMessageBytes)
      if (header.payloadLength > maxPayloadBytes) throw new FrameTooLargeError('a payload', header.payloadLength, maxPayloadBytes)
      return { header, payloadBytes: header.payloadLength }
    }
  }
}

/**
 * Sends a last frame and the stream's end, and resets the stream where the peer has not ended its side in time. A reset right behind the
 * frame would make some implementations drop the frame unread. A frame that is being sent is finished first: half a frame cannot be read,
 * nor can what follows it. Resolves when `lastFrame` will not be called any more.
 */
export async function tellAndReset (
  stream: Stream,
  sink: StreamSink,
  error: Error,
  lastFrame: () => Iterable<Uint8ArrayList>
): Promise<void> {
  if (stream.status !== 'open') return
  const limit = new AbortController()
  const reset = (): void => {
    limit.abort(error)
    stream.abort(error)
  }
  const timer = setTimeout(reset, ABORT_TIMEOUT_MS)
  stream.addEventListener('close', () => { clearTimeout(timer) }, { once: true })
  const tell = (): void => {
    if (stream.writeStatus !== 'writable' || !sendNow(sink, lastFrame)) resetWhenSent(stream, reset)
    else stream.close({ signal: limit.signal }).then(async () => { await stream.closeRead() }).catch(reset)
  }
  // What does not have to wait leaves at once: whoever calls this may close the connection next.
  if (!sink.busy) tell()
  else await sink.exclusively(async () => { tell() }, limit.signal).catch(reset)
}

/** Sends a frame as far as the stream takes it. Returns whether there was one, and somebody to send it to. */
function sendNow (sink: StreamSink, frame: () => Iterable<Uint8ArrayList>): boolean {
  let hasBytes = false
  try {
    for (const bytes of frame()) {
      sink.writeNow(bytes)
      hasBytes = true
    }
  } catch {
    return false // the stream broke first
  }
  return hasBytes
}

/** Resets a stream once its bytes have left. */
function resetWhenSent (stream: Stream, reset: () => void): void {
  if (stream.writeBufferLength === 0) reset()
  else stream.addEventListener('idle', reset, { once: true })
}
