import type { Model } from '../../../model/families/index.ts'
import type { Sequences } from '../../../model/layers/hidden-states.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { RoundsAheadError } from '../../../protocols/train/errors.ts'
import { fromServer, type ClientMessage, type TrainServerChannel } from '../../../protocols/train/messages.ts'
import type { Backward, Forward, GradientNorm, SecureReply } from '../../../protocols/train/train_pb.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkMagnitude, checkHiddenStates, expectTensor } from '../../../protocols/wire/hidden-states.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { Stage } from '../../middle/stage.ts'
import { replyOf } from '../../secure-messages.ts'
import { valuesOf } from '../../training/aggregation/secure/vector.ts'
import type { AggregationStrategy } from '../../training/aggregation/strategy.ts'
import type { CommittedState } from '../../training/coordinator-state.ts'
import type { Coordinator } from '../../training/coordinator.ts'
import type { Round } from '../../training/round.ts'
import { checkExcept, checkGradientNorm, checkPass, checkSequences, checkSpan, type SequenceFields } from '../checks.ts'
import { StreamParticipant } from './stream-participant.ts'

export interface TrainSessionComponents {
  readonly charter: Charter
  readonly model: Model
  readonly coordinator: Coordinator
  readonly stage: Pick<Stage, 'evaluate'>
  readonly strategy: AggregationStrategy
  readonly state: CommittedState
}

/**
 * One client's training stream: checks what the client says and hands it to the round that it belongs to. A message that does not fit ends
 * this stream with a typed error and touches nothing else.
 */
export class TrainSession {
  readonly #channel: TrainServerChannel
  readonly #peer: string
  readonly #components: TrainSessionComponents
  #participant: StreamParticipant | undefined

  constructor (channel: TrainServerChannel, components: TrainSessionComponents) {
    this.#channel = channel
    this.#peer = channel.remotePeer.toString()
    this.#components = components
  }

  /** Serves the stream until it ends. Rejects with what ended it. */
  async run (signal: AbortSignal): Promise<void> {
    try {
      for (;;) await this.#handle(await this.#channel.receive(signal))
    } finally {
      if (this.#participant !== undefined) this.#components.coordinator.detach(this.#participant)
    }
  }

  async #handle ({ message: { kind }, tensors }: Received<ClientMessage>): Promise<void> {
    switch (kind.case) {
      case 'enlist':
        return await this.#enlist(checkSpan(this.#components.charter, kind.value.middle), kind.value.round)
      case 'forward':
        return await this.#forward(kind.value, tensors)
      case 'backward':
        return await this.#backward(kind.value, tensors)
      case 'gradientNorm':
        return await this.#gradientNorm(kind.value)
      case 'secureReply':
        return this.#secureReply(kind.value, tensors)
      case 'contribution':
        return this.#contribution(kind.value.round, kind.value.names, tensors)
      case 'evaluate':
        return await this.#evaluate(kind.value.request, checkSpan(this.#components.charter, kind.value.middle), kind.value, tensors)
      case 'fetchAdapters':
        return await this.#sendAdapters(kind.value.knownRound, checkExcept(this.#components.charter, kind.value.except))
      case 'withdraw':
        return await this.#withdraw()
      default:
        throw new BadMessageError('the message is of no known kind')
    }
  }

  async #enlist (span: Span, clientRound: number): Promise<void> {
    const { coordinator, state } = this.#components
    if (clientRound > state.round) throw new RoundsAheadError(state.round, clientRound)
    const before = this.#participant
    if (before !== undefined && (before.span.first !== span.first || before.span.end !== span.end))
      throw new BadMessageError('the client enlisted with other blocks than before on the same stream')
    this.#participant ??= new StreamParticipant(this.#peer, span, this.#channel, (lost) => { coordinator.detach(lost) })
    await coordinator.enlist(this.#participant, clientRound)
  }

  async #forward (forward: Forward, tensors: readonly Tensor[]): Promise<void> {
    const round = this.#roundNamed(forward.round)
    checkPass(this.#components.charter, forward.pass)
    const sequences = this.#check(forward, tensors)
    if (round === undefined || forward.pass > round.pass) return
    if (forward.pass < round.pass) return round.requestRestart(this.#peer)
    if (round.forward.add(this.#peer, { ...sequences, tensors })) return
    await this.#repeat(round, 'hidden')
  }

  async #backward ({ round: number, pass, tokens }: Backward, tensors: readonly Tensor[]): Promise<void> {
    const { charter } = this.#components
    const round = this.#roundNamed(number)
    checkPass(charter, pass)
    if (tokens < 1 || tokens > charter.training.maxTokensPerClient)
      throw new BadMessageError(`${tokens} target tokens came: the charter allows 1 to ${charter.training.maxTokensPerClient}`)
    if (round?.backward === undefined || pass !== round.pass) return
    const rows = round.hidden.get(this.#peer)?.[0]?.shape[0]
    if (rows === undefined) return
    if (tokens > rows) throw new BadMessageError(`${tokens} target tokens do not fit ${rows} rows`)
    checkHiddenStates(tensors, { wire: charter.wire, hidden: charter.model.hidden, rows })
    if (!round.backward.add(this.#peer, { tokens, tensors })) await this.#repeat(round, 'gradient')
  }

  async #gradientNorm ({ round: number, norm }: GradientNorm): Promise<void> {
    const round = this.#roundNamed(number)
    const answer = checkGradientNorm(norm)
    if (round?.norm === undefined || round.norm.add(this.#peer, answer)) return
    const coefficient = round.coefficientOf(this.#peer)
    if (coefficient !== undefined) await this.#channel.send(fromServer({ case: 'coefficient', value: { round: number, coefficient } }))
  }

  #secureReply (message: SecureReply, tensors: readonly Tensor[]): void {
    const round = this.#roundNamed(message.round)
    if (round === undefined) return
    const values = valuesOf(this.#components.strategy.expectedFrom(round.spanOf(this.#peer), message.round))
    round.addSecure(this.#peer, message.attempt, replyOf(message, tensors, this.#peer, values))
  }

  #contribution (number: number, names: readonly string[], tensors: readonly Tensor[]): void {
    const round = this.#roundNamed(number)
    if (round?.contribution === undefined) return
    const expected = this.#components.strategy.expectedFrom(round.spanOf(this.#peer), number)
    if (names.length !== expected.length || tensors.length !== expected.length)
      throw new BadMessageError(`${tensors.length} adapter tensors came: expected ${expected.length}`)
    const contribution = new Map<string, Tensor>()
    for (const [index, { name, shape }] of expected.entries()) {
      if (names[index] !== name) throw new BadMessageError(`adapter tensor ${index} is not ${name}`)
      const value = tensors[index]
      expectTensor(name, value, 'float32', shape)
      checkMagnitude(name, value)
      contribution.set(name, value)
    }
    round.contribution.add(this.#peer, contribution)
  }

  async #evaluate (request: number, span: Span, fields: SequenceFields, tensors: readonly Tensor[]): Promise<void> {
    const sequences = this.#check(fields, tensors)
    const hidden = await this.#components.stage.evaluate({ id: this.#peer, ...span, ...sequences, tensors })
    await this.#channel.send(fromServer({ case: 'evaluated', value: { request } }), hidden)
  }

  async #sendAdapters (knownRound: number | undefined, except: Span | undefined): Promise<void> {
    const { strategy, state } = this.#components
    const { round, names, tensors } = knownRound === state.round
      ? { round: knownRound, names: [], tensors: [] }
      : await strategy.committed(except)
    await this.#channel.send(fromServer({ case: 'adapters', value: { round, names: [...names] } }), tensors)
  }

  async #withdraw (): Promise<void> {
    this.#components.coordinator.withdraw(this.#peer)
    this.#participant = undefined
    await this.#channel.send(fromServer({ case: 'withdrawn', value: {} }))
  }

  /** Finds the round in progress, if it has this number and the client has a part in it. Replies to other rounds are dropped. */
  #roundNamed (number: number): Round | undefined {
    if (this.#participant === undefined) throw new BadMessageError('the client has not enlisted')
    const round = this.#components.coordinator.current
    return round?.number === number && round.has(this.#peer) ? round : undefined
  }

  /** Checks hidden states and how they fall into sequences. Throws BadMessageError. */
  #check (fields: SequenceFields, tensors: readonly Tensor[]): Sequences {
    const { charter, model } = this.#components
    const { sequences, rows } = checkSequences(charter, model, fields)
    checkHiddenStates(tensors, { wire: charter.wire, hidden: charter.model.hidden, rows })
    return sequences
  }

  /** Repeats an answer to a client that was cut off before it had it. A client that asks again and again waits for its own reading. */
  async #repeat (round: Round, kind: 'hidden' | 'gradient'): Promise<void> {
    const tensors = (kind === 'hidden' ? round.hidden : round.gradients).get(this.#peer)
    if (tensors !== undefined)
      await this.#channel.send(fromServer({ case: kind, value: { round: round.number, pass: round.pass } }), tensors)
  }
}
