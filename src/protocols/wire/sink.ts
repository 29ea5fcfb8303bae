import type { Stream, StreamCloseEvent } from '@libp2p/interface'
import type { Uint8ArrayList } from 'uint8arraylist'
import { MidspanError } from '../../errors.ts'
import { ChannelClosedError, ChannelResetError } from './errors.ts'
import { startTimeout, withSignal } from './wait.ts'

/** The sending half of a stream: one frame at a time, no faster than the stream takes it. */
export class StreamSink {
  /** Bytes given to the stream so far. */
  sentBytes = 0
  readonly #stream: Stream
  readonly #idleTimeoutMs: number
  #tail: Promise<void> = Promise.resolve()
  #frames = 0

  constructor (stream: Stream, idleTimeoutMs: number) {
    this.#stream = stream
    this.#idleTimeoutMs = idleTimeoutMs
  }

  /** Whether a frame is being sent or waits to be. */
  get busy (): boolean {
    return this.#frames > 0
  }

  /** Runs `send` after those before it, alone. The signal counts until it begins: half a frame would end the session. */
  async exclusively (send: () => Promise<void>, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    const previous = this.#tail
    const turn = Promise.withResolvers<void>()
    this.#tail = turn.promise
    this.#frames++
    let waited = false
    try {
      await withSignal(previous, signal)
      waited = true
      await send()
    } finally {
      this.#frames--
      if (waited) turn.resolve()
      else void previous.then(() => { turn.resolve() })
    }
  }

  /**
   * Gives bytes to the stream, which keeps them by reference, and waits while it is full.
   * Waits for the 'drain' event: the stream's own onDrain() resolves at once after its first use.
   */
  async write (bytes: Uint8Array | Uint8ArrayList): Promise<void> {
    if (!this.writeNow(bytes)) await this.#drained()
  }

  /** Gives bytes to the stream. Returns false when it is full. Throws ChannelClosedError or ChannelResetError. */
  writeNow (bytes: Uint8Array | Uint8ArrayList): boolean {
    const { byteLength } = bytes
    try {
      const more = this.#stream.send(bytes)
      this.sentBytes += byteLength
      return more
    } catch (error) {
      if (this.#stream.status === 'open' || this.#stream.status === 'closing' || this.#stream.status === 'closed')
        throw new ChannelClosedError()
      throw new ChannelResetError(error)
    }
  }

  async #drained (): Promise<void> {
    const stream = this.#stream
    await new Promise<void>((resolve, reject) => {
      const settle = (act: () => void): void => {
        clearTimeout(timer)
        stream.removeEventListener('drain', onDrain)
        stream.removeEventListener('close', onClose)
        act()
      }
      const onDrain = (): void => { settle(resolve) }
      const onClose = (event: StreamCloseEvent): void => {
        settle(() => { reject(event.error instanceof MidspanError ? event.error : new ChannelResetError(event.error)) })
      }
      const timer = startTimeout('the peer took nothing', this.#idleTimeoutMs, (error) => { settle(() => { reject(error) }) })
      stream.addEventListener('drain', onDrain)
      stream.addEventListener('close', onClose)
    })
  }
}
