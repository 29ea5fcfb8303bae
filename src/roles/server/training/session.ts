import type { Model } from '../../../model/families/index.ts'
import type { Sequences } from '../../../model/layers/hidden-states.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { fromServer, type ClientMessage, type TrainServerChannel } from '../../../protocols/train/messages.ts'
import type { Backward, Forward, GradientNorm } from '../../../protocols/train/train_pb.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkMagnitude, checkHiddenStates, expectTensor } from '../../../protocols/wire/hidden-states.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { LocalStage } from '../../middle/local-stage.ts'
import type { FederatedAdapters } from '../../training/aggregation/federated-adapters.ts'
import type { CoordinatorState } from '../../training/coordinator-state.ts'
import type { Coordinator } from '../../training/coordinator.ts'
import type { Round } from '../../training/round.ts'
import { checkGradientNorm, checkSequences, checkSpan, type SequenceFields } from '../checks.ts'

export interface TrainSessionComponents {
  readonly charter: Charter
  readonly model: Model
  readonly trainer: Coordinator
  readonly middle: LocalStage
  readonly adapters: FederatedAdapters
  readonly state: CoordinatorState
}

/**
 * One client's training stream: checks what the client says and hands it to the round that it belongs to. Whatever does not fit
 * ends this stream with a typed error and touches nothing else.
 */
export class TrainSession {
  readonly #channel: TrainServerChannel
  readonly #peer: string
  readonly #components: TrainSessionComponents
  #span: Span | undefined

  constructor (channel: TrainServerChannel, components: TrainSessionComponents) {
    this.#channel = channel
    this.#peer = channel.remotePeer.toString()
    this.#components = components
  }

  /** Serves the stream until it ends; rejects with what ended it. */
  async run (signal: AbortSignal): Promise<void> {
    try {
      for (;;) await this.#handle(await this.#channel.receive(signal))
    } finally {
      this.#components.trainer.members.absent(this.#peer, this.#channel)
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
      case 'contribution':
        return this.#contribution(kind.value.round, kind.value.names, tensors)
      case 'evaluate':
        return await this.#evaluate(kind.value.request, checkSpan(this.#components.charter, kind.value.middle), kind.value, tensors)
      case 'fetchAdapters':
        return await this.#sendAdapters(kind.value.knownRound, kind.value.except)
      case 'withdraw':
        return await this.#withdraw()
      default:
        throw new BadMessageError('the message is of no known kind')
    }
  }

  async #enlist (span: Span, clientRound: number): Promise<void> {
    const { trainer, adapters, state } = this.#components
    if (clientRound > state.round)
      throw new BadMessageError(
        `the client has seen ${clientRound} rounds, and this server only ${state.round}: one of them was restored from an older copy`
      )
    this.#span = span
    const missed = adapters.stateFor(span, clientRound)
    const round = trainer.current
    if (round?.has(this.#peer) === true && !sameSpan(round.spanOf(this.#peer), span)) round.drop(this.#peer)
    const replaced = trainer.members.enlist(this.#peer, span, this.#channel)
    replaced?.abort(new BadMessageError('another stream of the same client took over'))
    const members = trainer.members.size
    await this.#channel.send(fromServer({
      case: 'enlisted', value: { round: state.round, countedRound: state.countedRound(this.#peer), names: missed.names, members }
    }), missed.tensors)
    if (round !== undefined && round === trainer.current) trainer.begin(this.#peer, round)
    else if (members < trainer.needed) await this.#channel.send(fromServer({ case: 'waiting', value: { members, needed: trainer.needed } }))
  }

  async #forward (forward: Forward, tensors: readonly Tensor[]): Promise<void> {
    const round = this.#roundNamed(forward.round)
    const sequences = this.#check(forward, tensors)
    if (round === undefined || forward.pass > round.pass) return
    if (forward.pass < round.pass) return round.requestRestart(this.#peer)
    if (round.forward.add(this.#peer, { ...sequences, tensors })) return
    await this.#repeat(round, 'hidden')
  }

  async #backward ({ round: number, pass, tokens }: Backward, tensors: readonly Tensor[]): Promise<void> {
    const { charter } = this.#components
    const round = this.#roundNamed(number)
    if (round?.backward === undefined || pass !== round.pass) return
    const rows = round.hidden.get(this.#peer)?.[0]?.shape[0]
    if (rows === undefined) return
    if (tokens < 1 || tokens > rows) throw new BadMessageError(`${tokens} target tokens do not fit ${rows} rows`)
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

  #contribution (number: number, names: readonly string[], tensors: readonly Tensor[]): void {
    const round = this.#roundNamed(number)
    if (round?.contribution === undefined) return
    const expected = this.#components.adapters.expectedFrom(round.spanOf(this.#peer), number)
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
    const hidden = await this.#components.middle.evaluate({ id: this.#peer, ...span, ...sequences, tensors })
    await this.#channel.send(fromServer({ case: 'evaluated', value: { request } }), hidden)
  }

  async #sendAdapters (knownRound: number | undefined, except: Span | undefined): Promise<void> {
    const { adapters, state } = this.#components
    const { round, names, tensors } = knownRound === state.round
      ? { round: knownRound, names: [], tensors: [] }
      : await adapters.committed(except)
    await this.#channel.send(fromServer({ case: 'adapters', value: { round, names } }), tensors)
  }

  async #withdraw (): Promise<void> {
    this.#components.trainer.withdraw(this.#peer)
    this.#span = undefined
    await this.#channel.send(fromServer({ case: 'withdrawn', value: {} }))
  }

  /** The round in progress if that is the one named and the client has a part in it; what belongs to a round gone by is dropped. */
  #roundNamed (number: number): Round | undefined {
    if (this.#span === undefined) throw new BadMessageError('the client has not enlisted')
    const round = this.#components.trainer.current
    return round?.number === number && round.has(this.#peer) ? round : undefined
  }

  /** Hidden rows and how they fall into sequences. Throws BadMessageError. */
  #check (fields: SequenceFields, tensors: readonly Tensor[]): Sequences {
    const { charter, model } = this.#components
    const { sequences, rows } = checkSequences(charter, model, fields)
    checkHiddenStates(tensors, { wire: charter.wire, hidden: charter.model.hidden, rows })
    return sequences
  }

  /** Sends a reply again to a client that was cut off before it had it; one that asks over and over waits for its own reading. */
  async #repeat (round: Round, kind: 'hidden' | 'gradient'): Promise<void> {
    const tensors = (kind === 'hidden' ? round.hidden : round.gradients).get(this.#peer)
    if (tensors !== undefined)
      await this.#channel.send(fromServer({ case: kind, value: { round: round.number, pass: round.pass } }), tensors)
  }
}

function sameSpan (a: Span, b: Span): boolean {
  return a.first === b.first && a.end === b.end
}
