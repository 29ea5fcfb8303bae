import { MidspanError } from '../../errors.ts'
import { type fromClient, fromClient as messageOf, type ServerMessage, type TrainClientChannel } from '../../protocols/train/messages.ts'
import type { Waiting } from '../../protocols/train/train_pb.ts'
import type { Received, Traffic } from '../../protocols/wire/channel.ts'
import type { Tensor } from '../../tensor.ts'
import type { PassOptions } from './stage.ts'

/** Thrown out of a pass when the server says something that ends it, such as that the round begins again. */
export class PassInterruptedError extends MidspanError {
  constructor ({ round, pass }: Pick<PassOptions, 'round' | 'pass'>) {
    super('E_PASS_INTERRUPTED', `pass ${pass} of round ${round} was ended by the server`)
  }
}

/** What a server answers a pass with. */
export type PassReply = 'hidden' | 'gradient'

/** Messages after which nothing is to be expected of a pass that is in progress. The others are left for whoever leads the round. */
const ENDS_PASS: ReadonlySet<unknown> = new Set(['enlisted', 'begin', 'step', 'withdrawn'])

/**
 * A client's training stream, which carries two things: the round's own messages, for the trainer, and the hidden states of its passes, for
 * a stage. One of them reads at a time, and what belongs to the other is kept for it in order.
 */
export class TrainingStream {
  readonly #channel: TrainClientChannel
  readonly #queue: Array<Received<ServerMessage>> = []
  /** Called with what the server waits for in the middle of a pass. */
  onWaiting: (reason: Waiting) => void = () => {}

  constructor (channel: TrainClientChannel) {
    this.#channel = channel
  }

  /** Bytes on the wire so far. */
  get traffic (): Traffic { return this.#channel.traffic }

  async send (kind: Parameters<typeof fromClient>[0], tensors: readonly Tensor[] = [], signal?: AbortSignal): Promise<void> {
    await this.#channel.send(messageOf(kind), tensors, signal)
  }

  /** Resolves with the next message of the round. Replies to passes that nobody waits for any more are dropped. */
  async receive (signal?: AbortSignal): Promise<Received<ServerMessage>> {
    for (;;) {
      const received = this.#queue.shift() ?? await this.#channel.receive(signal)
      if (!isPassReply(received)) return received
    }
  }

  /** Resolves with the tensors that answer a pass. Throws PassInterruptedError when the server ends the pass instead. */
  async reply (kind: PassReply, pass: Pick<PassOptions, 'round' | 'pass'>, signal?: AbortSignal): Promise<readonly Tensor[]> {
    if (this.#queue.some(({ message }) => ENDS_PASS.has(message.kind.case))) throw new PassInterruptedError(pass)
    for (let waits = 0;;) {
      const received = await this.#channel.receive(signal)
      const { message: { kind: found }, tensors } = received
      if (found.case === kind && found.value.round === pass.round && found.value.pass === pass.pass) return tensors
      if (isPassReply(received)) continue
      if (found.case === 'waiting') {
        if (++waits > MAX_WAITS) throw new TooManyMessagesError(MAX_WAITS)
        this.onWaiting(found.value)
        continue
      }
      if (this.#queue.push(received) > MAX_QUEUED) throw new TooManyMessagesError(MAX_QUEUED)
      if (ENDS_PASS.has(found.case)) throw new PassInterruptedError(pass)
    }
  }

  async close (signal?: AbortSignal): Promise<void> {
    await this.#channel.close(signal)
  }

  abort (error: Error): void {
    this.#channel.abort(error)
  }
}

/** Messages of the round that may wait while a pass is in progress. A server sends one or two. */
const MAX_QUEUED = 64

/** How often a server may say in one pass that it waits: once a minute, for two months. */
const MAX_WAITS = 100_000

/** Thrown when a server sends messages without end in place of an answer. */
export class TooManyMessagesError extends MidspanError {
  constructor (limit: number) {
    super('E_BAD_MESSAGE', `the server sent more than ${limit} messages in place of an answer`)
  }
}

/** Whether a message answers a pass. A client that was cut off may be answered twice. */
function isPassReply ({ message: { kind } }: Received<ServerMessage>): boolean {
  return kind.case === 'hidden' || kind.case === 'gradient'
}
