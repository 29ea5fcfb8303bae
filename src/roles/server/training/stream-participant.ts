import { MidspanError } from '../../../errors.ts'
import { fromServer, type ServerMessage, type TrainServerChannel } from '../../../protocols/train/messages.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import { requestMessage, type SecurePlace } from '../../secure-messages.ts'
import type { SecureRequest } from '../../training/aggregation/secure/messages.ts'
import type { Begin, Enlisted, Participant, PassId, StepOutcome, Waiting } from '../../training/participant.ts'

/** Thrown at a client that does not read what it is told. */
export class SlowReaderError extends MidspanError {
  constructor () {
    super('E_SLOW_READER', `${MAX_UNREAD_MESSAGES} messages wait for the client to read them`, {
      next: 'connect again: what was missed is sent then'
    })
  }
}

/**
 * A round is four messages to each member, five, or eight with a secure sum, and they hold its hidden states in memory until they are
 * read: a member may be a few rounds late.
 */
const MAX_UNREAD_MESSAGES = 16

/** What a stream's participant needs of its channel. */
export type ServerSide = Pick<TrainServerChannel, 'send' | 'abort'>

/** A participant at the other end of a training stream. */
export class StreamParticipant implements Participant {
  readonly peer: string
  readonly span: Span
  readonly #channel: ServerSide
  readonly #lost: (participant: Participant) => void
  #unread = 0

  /** `lost` is called when the stream takes no more messages. */
  constructor (peer: string, span: Span, channel: ServerSide, lost: (participant: Participant) => void) {
    this.peer = peer
    this.span = span
    this.#channel = channel
    this.#lost = lost
  }

  async enlisted ({ round, countedRound, names, tensors, members }: Enlisted): Promise<void> {
    await this.#channel.send(fromServer({ case: 'enlisted', value: { round, countedRound, names: [...names], members } }), tensors)
  }

  waiting ({ missing = [], ...reason }: Waiting): void {
    this.#say(fromServer({ case: 'waiting', value: { ...reason, missing: missing.map(({ first, end }) => ({ first, end })) } }))
  }

  begin (begin: Begin): void {
    this.#say(fromServer({ case: 'begin', value: begin }))
  }

  hidden (pass: PassId, tensors: readonly Tensor[]): void {
    this.#say(fromServer({ case: 'hidden', value: pass }), tensors)
  }

  gradient (pass: PassId, tensors: readonly Tensor[]): void {
    this.#say(fromServer({ case: 'gradient', value: pass }), tensors)
  }

  coefficient (round: number, coefficient: number): void {
    this.#say(fromServer({ case: 'coefficient', value: { round, coefficient } }))
  }

  secure (place: SecurePlace, request: SecureRequest): void {
    this.#say(fromServer(requestMessage(place, request)))
  }

  step ({ names, tensors, ...outcome }: StepOutcome): void {
    this.#say(fromServer({ case: 'step', value: { ...outcome, names: [...names] } }), tensors)
  }

  dismissed (): void {
    this.#say(fromServer({ case: 'withdrawn', value: {} }))
  }

  replaced (): void {
    this.#channel.abort(new BadMessageError('another stream of the same client took over'))
  }

  /** Sends a message without waiting until it is read. A stream that fails, or whose client reads too little, is ended. */
  #say (message: ServerMessage, tensors: readonly Tensor[] = []): void {
    this.#send(message, tensors).catch((error: unknown) => {
      this.#channel.abort(error instanceof Error ? error : new Error(String(error)))
      this.#lost(this)
    })
  }

  async #send (message: ServerMessage, tensors: readonly Tensor[]): Promise<void> {
    if (this.#unread >= MAX_UNREAD_MESSAGES) throw new SlowReaderError()
    this.#unread++
    try {
      await this.#channel.send(message, tensors)
    } finally {
      this.#unread--
    }
  }
}
