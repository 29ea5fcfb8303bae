import type { Stream, StreamCloseEvent, StreamMessageEvent } from '@libp2p/interface'
import { MidspanError } from '../../errors.ts'
import { MIN_PIECE_BYTES, PAUSE_AT_BYTES, RESUME_AT_BYTES } from './constants.ts'
import { ChannelResetError } from './errors.ts'
import { startTimeout } from './wait.ts'

/**
 * Gives a stream's bytes to a reader that asks for them. Listens from its construction, so construct it before the first await of a
 * handler. Holds at most PAUSE_AT_BYTES and one event above the stream, a small piece counted as more than it is, and pauses the stream
 * while its reader is slow: iterating a stream itself would buffer without bound.
 */
export class StreamSource implements AsyncIterable<Uint8Array> {
  /** Bytes received on the stream so far. */
  receivedBytes = 0
  readonly #idleTimeoutMs: number
  readonly #stallTimeoutMs: number
  readonly #stream: Stream
  #chunks: Uint8Array[] = []
  #first = 0
  #queuedBytes = 0
  #ended = false
  #failure: Error | undefined
  #wake: (() => void) | undefined

  constructor (stream: Stream, idleTimeoutMs: number, stallTimeoutMs = idleTimeoutMs) {
    this.#stream = stream
    this.#idleTimeoutMs = idleTimeoutMs
    this.#stallTimeoutMs = stallTimeoutMs
    if (stream.status === 'reset' || stream.status === 'aborted') this.#failure = new ChannelResetError()
    if (stream.readableEnded) this.#ended = true
    stream.addEventListener('message', this.#onMessage)
    stream.addEventListener('end', this.#onEnd)
    stream.addEventListener('close', this.#onClose)
  }

  /**
   * Reads the next bytes, or undefined at the end of the stream. Within a frame they are waited for less long. Throws ChannelResetError or
   * ChannelTimeoutError.
   */
  async read (where: 'between frames' | 'within a frame' = 'between frames'): Promise<Uint8Array | undefined> {
    while (this.#first === this.#chunks.length) {
      this.#resumeWhenLow()
      if (this.#first < this.#chunks.length) break
      if (this.#failure !== undefined) throw this.#failure
      if (this.#ended) return undefined
      await this.#nextEvent(where === 'within a frame' ? this.#stallTimeoutMs : this.#idleTimeoutMs)
    }
    const chunk = this.#chunks[this.#first++] as Uint8Array
    if (this.#first === this.#chunks.length) {
      this.#chunks = []
      this.#first = 0
    }
    this.#queuedBytes -= costOf(chunk)
    this.#resumeWhenLow()
    return chunk
  }

  /** Gives back the unused rest of what was read. */
  unread (bytes: Uint8Array): void {
    if (bytes.byteLength === 0) return
    if (this.#first > 0) this.#chunks[--this.#first] = bytes
    else this.#chunks.unshift(bytes)
    this.#queuedBytes += costOf(bytes)
  }

  /** Wakes a waiting reader with this error, after what is queued. */
  fail (error: Error): void {
    this.#failure ??= error
    this.#wake?.()
  }

  async * [Symbol.asyncIterator] (): AsyncGenerator<Uint8Array> {
    for (let chunk = await this.read(); chunk !== undefined; chunk = await this.read()) yield chunk
  }

  readonly #onMessage = (event: StreamMessageEvent): void => {
    const { data } = event
    this.receivedBytes += data.byteLength
    for (const chunk of data instanceof Uint8Array ? [data] : data) {
      this.#chunks.push(chunk)
      this.#queuedBytes += costOf(chunk)
    }
    if (this.#queuedBytes >= PAUSE_AT_BYTES && this.#stream.readStatus === 'readable') this.#stream.pause()
    this.#wake?.()
  }

  readonly #onEnd = (): void => {
    this.#ended = true
    this.#wake?.()
  }

  readonly #onClose = (event: StreamCloseEvent): void => {
    if (event.error === undefined) {
      // What a paused stream still holds is read on, and its 'end' follows.
      if (this.#stream.readBufferLength === 0) this.#ended = true
      this.#wake?.()
    } else {
      this.fail(event.error instanceof MidspanError ? event.error : new ChannelResetError(event.error))
    }
  }

  #resumeWhenLow (): void {
    if (this.#queuedBytes <= RESUME_AT_BYTES && this.#stream.readStatus === 'paused') this.#stream.resume()
  }

  async #nextEvent (timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    try {
      await new Promise<void>((resolve, reject) => {
        this.#wake = resolve
        timer = startTimeout('nothing was received', timeoutMs, reject)
      })
    } finally {
      this.#wake = undefined
      clearTimeout(timer)
    }
  }
}

/** The memory that a queued piece stands for. */
function costOf ({ byteLength }: Uint8Array): number {
  return Math.max(byteLength, MIN_PIECE_BYTES)
}
