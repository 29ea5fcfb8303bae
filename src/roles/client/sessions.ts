import type { Message } from '@bufbuild/protobuf'
import { isRetryable, MidspanError } from '../../errors.ts'
import { GENERATE_PROTOCOL } from '../../protocols/generate/constants.ts'
import * as generate from '../../protocols/generate/messages.ts'
import { TRAIN_PROTOCOL } from '../../protocols/train/constants.ts'
import * as train from '../../protocols/train/messages.ts'
import { openChannel, type Channel, type ChannelOptions } from '../../protocols/wire/channel.ts'
import { shapesOf } from '../charter-settings.ts'
import type { ClientContext } from '../context.ts'
import { generateLimits, idleTimeoutOf, trainLimits } from '../message-limits.ts'
import { TrainingStream } from '../middle/training-stream.ts'

/** Thrown when no server of the federation can be reached. */
export class NoServerError extends MidspanError {
  constructor (cause?: unknown) {
    super('E_NO_SERVER', 'no server of the federation can be reached', {
      next: 'see `midspan peers`; the daemon keeps trying', retryable: true, ...(cause === undefined ? {} : { cause })
    })
  }
}

/** Opens a client's sealed sessions with the servers of its federation. */
export class ClientSessions {
  readonly #context: ClientContext

  constructor (context: ClientContext) {
    this.#context = context
  }

  /** Opens a training stream. The caller closes it. Throws NoServerError, and a server's refusal. */
  async training (signal: AbortSignal): Promise<TrainingStream> {
    const { charter } = this.#context
    const shapes = shapesOf(charter, [{ first: 0, end: charter.model.blocks }])
    return new TrainingStream(
      await this.#open({
        protocol: TRAIN_PROTOCOL,
        outgoing: train.ClientMessageSchema,
        incoming: train.ServerMessageSchema,
        limits: trainLimits(charter, shapes)
      }, signal)
    )
  }

  /** Opens a session for one sequence that grows. The caller closes it. Throws NoServerError, and a server's refusal. */
  async generation (signal: AbortSignal): Promise<generate.GenerateClientChannel> {
    return await this.#open({
      protocol: GENERATE_PROTOCOL,
      outgoing: generate.ClientMessageSchema,
      incoming: generate.ServerMessageSchema,
      limits: generateLimits(this.#context.charter)
    }, signal)
  }

  /** Opens a session with the first server that answers, one that is connected before one that is not. */
  async #open<Out extends Message, In extends Message> (
    options: Pick<ChannelOptions<Out, In>, 'protocol' | 'outgoing' | 'incoming' | 'limits'>,
    signal: AbortSignal
  ): Promise<Channel<Out, In>> {
    const { identity, charterHash } = this.#context
    const servers = this.#context.servers().toSorted((a, b) => Number(b.connected) - Number(a.connected))
    let cause: unknown
    for (const { peerId } of servers) {
      try {
        const stream = await this.#context.dial(peerId, options.protocol, signal)
        return await openChannel(stream, {
          ...options,
          identity,
          remotePeer: peerId,
          charter: charterHash,
          idleTimeoutMs: idleTimeoutOf(this.#context.charter)
        }, signal)
      } catch (error) {
        signal.throwIfAborted()
        if (!isRetryable(error)) throw error
        cause = error
      }
    }
    throw new NoServerError(cause)
  }
}
