import { type Message, toBinary } from '@bufbuild/protobuf'
import type { PeerId } from '@libp2p/interface'
import { pipe } from 'it-pipe'
import type { Tensor } from '../../tensor.ts'
import { decodeBody, encodeBody, maxBodyBytes } from './body.ts'
import type { Channel, ChannelOptions, FrameInfo, Received, Traffic } from './channel-types.ts'
import { CLOSE_TIMEOUT_MS } from './constants.ts'
import { tellAndReset } from './control.ts'
import { ChannelClosedError, FrameTruncatedError, RemoteError } from './errors.ts'
import { failureOf, remoteErrorOf } from './failure.ts'
import { decodeFrames, type FramePart } from './framing.ts'
import type { Agreement, Medium } from './handshake.ts'
import { FrameOpener, type OpenedFrame } from './opener.ts'
import { parseMessage } from './parse.ts'
import { type FrameKind, sealedBytes } from './records.ts'
import { FrameSealer } from './sealer.ts'
import type { StreamSource } from './source.ts'
import { withDeadline, withSignal } from './wait.ts'
import { FailureSchema, type FrameHeader } from './wire_pb.ts'

export type Side = 'client' | 'server'

/** A session whose keys are agreed on: frames sealed one after another, opened in turn, ended for all callers at once. */
export class SealedChannel<Out extends Message, In extends Message> implements Channel<Out, In> {
  readonly sessionId: string
  readonly remotePeer: PeerId
  readonly #medium: Medium
  readonly #options: ChannelOptions<Out, In>
  readonly #sealer: FrameSealer
  readonly #opener: FrameOpener
  readonly #messages: AsyncGenerator<Received<In>>
  /** Messages that were asked for by receivers which gave up. */
  readonly #unclaimed: Array<Promise<Received<In>>> = []
  #sentFrames = 0
  #receivedFrames = 0
  /** Why nothing more can be sent or received. */
  #ended: Error | undefined
  #saidGoodbye = false
  /** The stream broke while a frame was on its way: nothing can be said any more, and that frame still has its turn. */
  #broken = false
  /** This side ended the session: the frame on its way is finished, so that the peer can read the reason behind it. */
  #gaveUp = false

  constructor (medium: Medium, options: ChannelOptions<Out, In>, side: Side, { sessionId, c2s, s2c }: Agreement) {
    this.#medium = medium
    this.#options = options
    this.sessionId = Buffer.from(sessionId).toString('hex')
    this.remotePeer = options.remotePeer
    const [sent, received] = side === 'client' ? ['c2s', 's2c'] as const : ['s2c', 'c2s'] as const
    const secrets = { c2s, s2c }
    const { protocol } = options
    this.#sealer = new FrameSealer(secrets[sent], { protocol, sessionId, direction: sent }, options.rekey)
    this.#opener = new FrameOpener(secrets[received], { protocol, sessionId, direction: received }, maxBodyBytes(options.limits))
    for (const secret of [c2s, s2c]) secret.fill(0)
    this.#messages = pipe(
      medium.source,
      (source: StreamSource) => decodeFrames(source, this.#opener),
      (parts: AsyncIterable<FramePart<FrameHeader>>) => this.#openFrames(parts),
      (frames: AsyncIterable<OpenedFrame>) => this.#parseMessages(frames)
    )
  }

  get traffic (): Traffic {
    const { source, sink } = this.#medium
    return {
      sentBytes: sink.sentBytes,
      receivedBytes: source.receivedBytes,
      sentFrames: this.#sentFrames,
      receivedFrames: this.#receivedFrames
    }
  }

  async send (message: Out, tensors: readonly Tensor[] = [], signal?: AbortSignal): Promise<void> {
    if (this.#ended !== undefined) throw this.#ended
    const parts = encodeBody({ message: toBinary(this.#options.outgoing, message), tensors }, this.#options.limits)
    await this.#medium.sink.exclusively(async () => {
      if (this.#ended !== undefined) throw this.#ended
      if (this.#saidGoodbye) throw new ChannelClosedError()
      await this.#sendFrame('message', parts)
    }, signal)
  }

  async receive (signal?: AbortSignal): Promise<Received<In>> {
    signal?.throwIfAborted()
    const next = this.#unclaimed.shift() ?? this.#next()
    try {
      return await withSignal(next, signal)
    } catch (error) {
      if (signal?.aborted === true && error === signal.reason) {
        next.catch(() => {})
        this.#unclaimed.unshift(next)
      }
      throw error
    }
  }

  async close (signal?: AbortSignal): Promise<void> {
    if (this.#ended !== undefined) return
    try {
      await withDeadline('the peer said no goodbye', CLOSE_TIMEOUT_MS, signal, async (deadline) => {
        await this.#sayGoodbye(deadline)
        for (;;) await this.receive(deadline)
      })
    } catch (error) {
      this.#end(new ChannelClosedError())
      if (!(error instanceof ChannelClosedError)) this.#medium.stream.abort(new ChannelClosedError())
      signal?.throwIfAborted()
    }
  }

  abort (error: Error): void {
    if (this.#ended !== undefined) return
    const { stream, sink } = this.#medium
    this.#gaveUp = true
    const told = tellAndReset(
      stream,
      sink,
      error,
      () => this.#saidGoodbye ? [] : this.#sealer.seal('failure', [toBinary(FailureSchema, failureOf(error))])
    )
    this.#end(error, told)
  }

  async #next (): Promise<Received<In>> {
    if (this.#ended !== undefined) throw this.#ended
    try {
      const next = await this.#messages.next()
      if (next.done !== true) return next.value
    } catch (error) {
      // Where the session had ended already, abort changes nothing and its reason stands.
      this.abort(error instanceof Error ? error : new Error(String(error)))
      throw this.#reason() ?? error
    }
    throw this.#reason() ?? new ChannelClosedError()
  }

  async * #openFrames (parts: AsyncIterable<FramePart<FrameHeader>>): AsyncGenerator<OpenedFrame> {
    for await (const part of parts) {
      if (part.header !== undefined) {
        this.#opener.begin(part.header, part.headerBytes)
        continue
      }
      const frame = this.#opener.add(part.piece)
      if (frame === undefined) continue
      this.#receivedFrames++
      this.#tellFrame('received', frame.kind, frame.header.sequence, frame.header.bodyLength)
      yield frame
    }
    throw new FrameTruncatedError('without the peer\'s goodbye')
  }

  async * #parseMessages (frames: AsyncIterable<OpenedFrame>): AsyncGenerator<Received<In>> {
    for await (const { kind, body } of frames) {
      if (kind === 'failure') {
        const error = remoteErrorOf(parseMessage(FailureSchema, body, 'its failure'))
        this.#end(error)
        this.#medium.stream.abort(error)
        throw error
      }
      if (kind === 'end') {
        await this.#answerGoodbye()
        return
      }
      const { message, tensors } = decodeBody(body, this.#options.limits)
      yield { message: parseMessage(this.#options.incoming, message, 'its message'), tensors }
    }
  }

  /** The peer waits for the answer as long as `close` does, and then takes nothing more. */
  async #answerGoodbye (): Promise<void> {
    try {
      await withDeadline('the peer took no goodbye', CLOSE_TIMEOUT_MS, undefined, async (deadline) => { await this.#sayGoodbye(deadline) })
    } catch {
      this.#medium.stream.abort(new ChannelClosedError())
    }
    this.#end(new ChannelClosedError())
  }

  async #sayGoodbye (signal?: AbortSignal): Promise<void> {
    const { sink, stream } = this.#medium
    if (this.#broken) return
    await sink.exclusively(async () => {
      if (this.#saidGoodbye) return
      this.#saidGoodbye = true
      await withSignal(this.#sendFrame('end', []), signal)
      await stream.close(signal === undefined ? {} : { signal })
    }, signal)
  }

  /** A frame that fails half way ends the session: what follows it could not be read. */
  async #sendFrame (kind: FrameKind, parts: readonly Uint8Array[]): Promise<void> {
    try {
      for (const record of this.#sealer.seal(kind, parts)) {
        if (this.#ended !== undefined && !this.#gaveUp) throw this.#ended
        await this.#medium.sink.write(record)
      }
    } catch (error) {
      const reason = await this.#lastWords(error instanceof Error ? error : new Error(String(error)))
      if (this.#ended !== undefined) throw this.#ended
      this.#end(reason)
      this.#medium.stream.abort(reason)
      throw reason
    }
    this.#tellFrame('sent', kind, this.#sentFrames++, parts.reduce((sum, part) => sum + part.byteLength, 0))
  }

  /**
   * Why the peer ended the stream, where it said so before and nobody has read it yet; otherwise the error. The stream may be reset by the
   * peer, or closed with its connection.
   */
  async #lastWords (error: Error): Promise<Error> {
    if (this.#ended !== undefined) return error
    this.#broken = true
    this.#medium.source.fail(error)
    try {
      while ((await this.#messages.next()).done !== true);
      return error
    } catch (reason) {
      return reason instanceof RemoteError ? reason : error
    }
  }

  #tellFrame (direction: FrameInfo['direction'], kind: FrameKind, sequence: number, bodyBytes: number): void {
    this.#options.onFrame?.({ direction, kind, sequence, bodyBytes, sealedBytes: sealedBytes(bodyBytes) })
  }

  #reason (): Error | undefined {
    return this.#ended
  }

  /** Ends the session for all callers, and its keys; the key of this side once the reason has been told, where that is being done. */
  #end (reason: Error, told?: Promise<void>): void {
    if (this.#ended !== undefined) return
    this.#ended = reason
    if (told === undefined) this.#sealer.destroy()
    else void told.then(() => { this.#sealer.destroy() })
    this.#opener.destroy()
    this.#medium.source.fail(reason)
    // What a peer went on sending would gather unread.
    this.#medium.stream.closeRead().catch((error: unknown) => { this.#medium.stream.abort(error as Error) })
  }
}
