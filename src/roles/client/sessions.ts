import type { Message } from '@bufbuild/protobuf'
import type { PeerId } from '@libp2p/interface'
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

/** Thrown when the server that leads the rounds cannot be reached. */
export class NoServerError extends MidspanError {
  constructor (server?: PeerId, cause?: unknown) {
    super('E_NO_SERVER', `${server === undefined ? 'no coordinator is known' : `the coordinator ${server.toString()} cannot be reached`}`, {
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

  /** Opens a training stream with the coordinator. The caller closes it. Throws NoServerError, and the coordinator's refusal. */
  async training (signal: AbortSignal): Promise<TrainingStream> {
    const { charter } = this.#context
    const shapes = shapesOf(charter, [{ first: 0, end: charter.model.blocks }])
    const coordinator = this.#context.servers().find(({ isCoordinator }) => isCoordinator)?.peerId
    if (coordinator === undefined) throw new NoServerError()
    try {
      return new TrainingStream(
        await this.#open(coordinator, {
          protocol: TRAIN_PROTOCOL,
          outgoing: train.ClientMessageSchema,
          incoming: train.ServerMessageSchema,
          limits: trainLimits(charter, shapes)
        }, signal)
      )
    } catch (error) {
      signal.throwIfAborted()
      throw isRetryable(error) ? new NoServerError(coordinator, error) : error
    }
  }

  /**
   * Opens a session with a server for one sequence; in one that `mayBeSilent`, nothing has to come. The caller closes it. Throws what
   * `dial` throws, and the server's refusal.
   */
  async generation (
    server: PeerId,
    { mayBeSilent = false }: { readonly mayBeSilent?: boolean } = {},
    signal?: AbortSignal
  ): Promise<generate.GenerateClientChannel> {
    return await this.#open(server, {
      protocol: GENERATE_PROTOCOL,
      outgoing: generate.ClientMessageSchema,
      incoming: generate.ServerMessageSchema,
      limits: generateLimits(this.#context.charter),
      ...mayBeSilent ? { idleTimeoutMs: Infinity } : {}
    }, signal)
  }

  async #open<Out extends Message, In extends Message> (
    server: PeerId,
    options: Pick<ChannelOptions<Out, In>, 'protocol' | 'outgoing' | 'incoming' | 'limits' | 'idleTimeoutMs'>,
    signal: AbortSignal = new AbortController().signal
  ): Promise<Channel<Out, In>> {
    const { identity, charter, charterHash } = this.#context
    const stream = await this.#context.dial(server, options.protocol, signal)
    return await openChannel(stream, {
      idleTimeoutMs: idleTimeoutOf(charter),
      ...options,
      identity,
      remotePeer: server,
      charter: charterHash
    }, signal)
  }
}
