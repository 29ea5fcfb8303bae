import { MidspanError } from '../../errors.ts'
import type { ServerMessage, TrainServerChannel } from '../../protocols/train/messages.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'

/** Thrown when a federation has as many members as its charter allows. */
export class FederationFullError extends MidspanError {
  constructor (limit: number) {
    super('E_FEDERATION_FULL', `the federation already has its ${limit} members`, { next: 'try again when one of them has left' })
  }
}

/** Thrown at a client that does not read what it is told. */
export class SlowReaderError extends MidspanError {
  constructor () {
    super('E_SLOW_READER', `${MAX_UNREAD_MESSAGES} messages wait for the client to read them`, {
      next: 'connect again: what was missed is sent then'
    })
  }
}

/**
 * A round is four messages to each member, or five, and they hold its rows in memory until they are read: a member may be a few rounds
 * late.
 */
const MAX_UNREAD_MESSAGES = 16

/** A client that takes part in training. It stays one while it is away, until a round has passed its deadline without it. */
export interface Member {
  readonly peer: string
  readonly span: Span
  /** Its stream while it is there. */
  channel: TrainServerChannel | undefined
}

/** Who takes part in training, and how to speak to them. */
export class Members {
  readonly #members = new Map<string, Member>()
  readonly #limit: number
  readonly #unread = new WeakMap<TrainServerChannel, number>()
  #changed: Array<() => void> = []

  constructor (limit: number, known: Iterable<{ peer: string, span: Span }> = []) {
    this.#limit = limit
    for (const { peer, span } of known) this.#members.set(peer, { peer, span, channel: undefined })
  }

  get size (): number { return this.#members.size }
  get peers (): string[] { return [...this.#members.keys()].sort() }
  get all (): Member[] { return this.peers.map((peer) => this.#members.get(peer) as Member) }
  get (peer: string): Member | undefined { return this.#members.get(peer) }

  /** Takes a client in, or back. The stream that it had before, if any, is returned: the newest one speaks for the client. */
  enlist (peer: string, span: Span, channel: TrainServerChannel): TrainServerChannel | undefined {
    const before = this.#members.get(peer)
    if (before === undefined && this.#members.size >= this.#limit) throw new FederationFullError(this.#limit)
    this.#members.set(peer, { peer, span, channel })
    this.#notify()
    return before?.channel === channel ? undefined : before?.channel
  }

  /** Notes that a stream is gone; its client remains a member. */
  absent (peer: string, channel: TrainServerChannel): void {
    const member = this.#members.get(peer)
    if (member?.channel === channel) member.channel = undefined
  }

  remove (peer: string): void {
    if (this.#members.delete(peer)) this.#notify()
  }

  /** Says something to a member that is there. Nobody waits for a slow or vanished one: its own stream's loop sees the failure. */
  say (peer: string, message: ServerMessage, tensors: readonly Tensor[] = [], channel = this.#members.get(peer)?.channel): void {
    if (channel === undefined) return
    this.#send(channel, message, tensors).catch((error: unknown) => {
      channel.abort(error instanceof Error ? error : new Error(String(error)))
      this.absent(peer, channel)
    })
  }

  async #send (channel: TrainServerChannel, message: ServerMessage, tensors: readonly Tensor[]): Promise<void> {
    const unread = this.#unread.get(channel) ?? 0
    if (unread >= MAX_UNREAD_MESSAGES) throw new SlowReaderError()
    this.#unread.set(channel, unread + 1)
    try {
      await channel.send(message, tensors)
    } finally {
      this.#unread.set(channel, (this.#unread.get(channel) ?? 1) - 1)
    }
  }

  /** Resolves when there are at least this many members. */
  async quorum (least: number, signal: AbortSignal): Promise<void> {
    while (this.#members.size < least) {
      signal.throwIfAborted()
      await new Promise<void>((resolve, reject) => {
        const abort = (): void => { reject(signal.reason as Error) }
        signal.addEventListener('abort', abort, { once: true })
        this.#changed.push(() => {
          signal.removeEventListener('abort', abort)
          resolve()
        })
      })
    }
  }

  #notify (): void {
    const waiting = this.#changed
    this.#changed = []
    for (const resume of waiting) resume()
  }
}
