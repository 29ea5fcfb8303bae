import type { ProgressOf } from '../../../api/operations.ts'
import type { Batches, Cursor } from '../../../model/text/batches.ts'
import { learningRateAt } from '../../../model/training/learning-rate.ts'
import { clippingCoefficient } from '../../../model/training/optimizer.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'
import { fromClient, type ServerMessage, type TrainClientChannel } from '../../../protocols/train/messages.ts'
import type { Coefficient, Gradient, Hidden, Step, Waiting } from '../../../protocols/train/train_pb.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import type { Tensor } from '../../../tensor.ts'
import type { ClientStrategy } from '../../training/aggregation/strategy.ts'
import { Backoff } from '../backoff.ts'
import { sequenceFields } from '../fields.ts'
import { isTransient } from '../sessions.ts'
import type { AdapterState } from './adapter-state.ts'
import type { ClientEnds } from './client-ends.ts'
import type { ProgressMeta, Run } from './progress.ts'
import { RoundWork } from './round-work.ts'
import { TrafficMeter, type Traffic } from './traffic.ts'

export type TrainEvent = Extract<ProgressOf<'train'>, { readonly type: 'waiting' | 'round' }>

export interface ClientTrainerComponents {
  readonly charter: Charter
  readonly strategy: ClientStrategy
  readonly partition: Partition
  readonly ends: ClientEnds
  readonly state: AdapterState
  readonly batches: Batches
  readonly progress: ProgressMeta & { readonly run: Run }
  /** Whether the run was begun before, so that work of it may have counted without this client's knowing. */
  readonly resumed: boolean
  /** Called with every place that was made durable. */
  readonly onProgress: (meta: ProgressMeta) => void
  /** Opens a training stream. */
  readonly open: (signal: AbortSignal) => Promise<TrainClientChannel>
}

/** How long a goodbye may take. */
const WITHDRAW_TIMEOUT_MS = 5_000

/** Follows the rounds of a federation with this client's own text, until it has done as many as it was asked for. */
export class ClientTrainer {
  readonly #c: ClientTrainerComponents
  #meta: ProgressMeta & { readonly run: Run }
  #work: RoundWork | undefined
  #begun: boolean
  readonly #traffic = new TrafficMeter()
  /** The last write of a place and the state that belongs to it, which may be in progress, or have failed. */
  #written: Promise<void> = Promise.resolve()

  constructor (components: ClientTrainerComponents) {
    this.#c = components
    this.#meta = components.progress
    this.#begun = components.resumed
  }

  /** Bytes on the wire since the start. */
  get traffic (): Traffic { return this.#traffic.total }

  /** Takes part until the run is done. A lost connection is opened again; what the rounds need survives it. */
  async * run (signal: AbortSignal): AsyncGenerator<TrainEvent> {
    const backoff = new Backoff()
    while (this.#meta.run.done < this.#meta.run.rounds) {
      try {
        for await (const event of this.#follow(signal)) {
          backoff.reset()
          yield event
        }
      } catch (error) {
        signal.throwIfAborted()
        if (!isTransient(error)) throw error
        yield {
          type: 'waiting',
          reason: `the connection was lost (${error instanceof Error ? error.message : String(error)}); trying again`
        }
        await backoff.wait(signal)
      } finally {
        this.#forget()
        await Promise.allSettled([this.#written])
      }
    }
  }

  async * #follow (signal: AbortSignal): AsyncGenerator<TrainEvent> {
    const channel = await this.#c.open(signal)
    // A server that takes nothing more must not keep a client from stopping.
    const giveUp = (): void => { setTimeout(() => { channel.abort(new Error('the client left')) }, WITHDRAW_TIMEOUT_MS).unref() }
    signal.addEventListener('abort', giveUp, { once: true })
    let clean = false
    try {
      // What could not be written is written before anything follows from it.
      await this.#written.catch(async () => { await this.#write() })
      // The round in progress may have work of another run of this client's: that is not gone on with.
      if (!this.#begun) await this.#leaveRound(channel, signal)
      await this.#enlist(channel)
      while (this.#meta.run.done < this.#meta.run.rounds) {
        const received = await channel.receive(signal)
        const event = await this.#handle(channel, received)
        if (event !== undefined) yield event
      }
      await this.#written
      clean = true
    } finally {
      signal.removeEventListener('abort', giveUp)
      if (clean || signal.aborted) await this.#withdraw(channel)
      else channel.abort(new Error('the client lost its place'))
      this.#traffic.close(channel)
    }
  }

  async #handle (channel: TrainClientChannel, { message: { kind }, tensors }: Received<ServerMessage>): Promise<TrainEvent | undefined> {
    switch (kind.case) {
      case 'enlisted':
        return await this.#reconcile(kind.value, tensors)
      case 'waiting':
        return { type: 'waiting', reason: waitingReason(kind.value) }
      case 'begin':
        return await this.#begin(channel, kind.value.round)
      case 'hidden':
        return await this.#hidden(channel, kind.value, tensors)
      case 'gradient':
        return await this.#gradient(channel, kind.value, tensors)
      case 'coefficient':
        return await this.#coefficient(channel, kind.value)
      case 'step':
        return await this.#step(channel, kind.value, tensors)
      case 'withdrawn':
        // What it did for the round is lost, also where the round is tried again without it.
        this.#forget()
        return await this.#enlist(channel)
      default: throw new BadMessageError('the server sent a message that training does not have')
    }
  }

  async #enlist (channel: TrainClientChannel): Promise<undefined> {
    const { partition: { inputBlocks, outputBlocks }, charter: { model: { blocks } } } = this.#c
    await channel.send(
      fromClient({ case: 'enlist', value: { middle: { first: inputBlocks, end: blocks - outputBlocks }, round: this.#meta.round } })
    )
  }

  /** Finds out what became of the round that this client was cut off in, and takes over the state that it missed. */
  async #reconcile (
    { round, countedRound, names }: { round: number, countedRound: number, names: readonly string[] },
    tensors: readonly Tensor[]
  ): Promise<undefined> {
    if (round < this.#meta.round) throw new BadMessageError(`the server is at round ${round}, and this client has seen ${this.#meta.round}`)
    // The round goes on: what this client handed in for it may still count.
    if (round === this.#meta.round) {
      await this.#c.state.suspend()
      return
    }
    // Work for the round that this client was in can have counted in that round alone.
    const counted = countedRound === this.#meta.round + 1
    if (counted) await this.#c.state.promote()
    else await this.#c.state.revert()
    await this.#c.state.adopt(this.#c.state.checked(names, tensors))
    await this.#goOn(round, counted && this.#begun)
  }

  async #begin (channel: TrainClientChannel, round: number): Promise<undefined> {
    // A step was missed, as when it was said on a stream that had just been replaced.
    if (round !== this.#meta.round) return await this.#enlist(channel)
    this.#forget()
    if (!this.#begun) {
      this.#begun = true
      await this.#write()
    }
    // The same round may begin anew, after this client has prepared its step.
    await this.#c.state.suspend()
    this.#work = new RoundWork(round, this.#c.ends, this.#c.batches, this.#meta.run.cursor)
    await this.#forward(channel, this.#work)
  }

  async #forward (channel: TrainClientChannel, work: RoundWork): Promise<undefined> {
    const { sequences, hidden } = await work.forward()
    await channel.send(fromClient({ case: 'forward', value: { round: work.round, pass: work.pass, ...sequenceFields(sequences) } }), hidden)
  }

  async #hidden (channel: TrainClientChannel, { round, pass }: Hidden, tensors: readonly Tensor[]): Promise<undefined> {
    const work = this.#workOf(round)
    if (work?.awaits !== 'hidden' || work.pass !== pass) return
    const gradient = await work.learn(tensors)
    await channel.send(fromClient({ case: 'backward', value: { round, pass, tokens: work.passTokens } }), gradient)
  }

  async #gradient (channel: TrainClientChannel, { round, pass }: Gradient, tensors: readonly Tensor[]): Promise<undefined> {
    const work = this.#workOf(round)
    if (work?.awaits !== 'gradient' || work.pass !== pass) return
    await work.finish(tensors)
    const { charter, strategy, state } = this.#c
    if (work.pass < charter.training.gradientAccumulationSteps) return await this.#forward(channel, work)
    // Work that is handed in may count, and a client that is killed must then find the round and the run that it is of.
    await this.#written
    if (!strategy.stepsItself) return await this.#contribute(channel, work)
    const norm = await state.norm(work.gradients)
    if (!strategy.tellsGradientNorm)
      return await this.#ownStep(channel, work, clippingCoefficient(norm / work.figures.tokens, charter.training.maxGradientNorm))
    work.awaits = 'coefficient'
    await channel.send(fromClient({ case: 'gradientNorm', value: { round, norm } }))
  }

  async #coefficient (channel: TrainClientChannel, { round, coefficient }: Coefficient): Promise<undefined> {
    const work = this.#workOf(round)
    if (work?.awaits !== 'coefficient') return
    // The comparisons are false for NaN.
    if (!(coefficient > 0 && coefficient <= 1))
      throw new BadMessageError(`the server has gradients multiplied by ${coefficient}: clipping takes a number above 0, 1 at most`)
    work.awaits = 'step'
    await this.#ownStep(channel, work, coefficient)
  }

  /** Takes the step of this client's own ends and hands in what they add. */
  async #ownStep (channel: TrainClientChannel, work: RoundWork, coefficient: number): Promise<undefined> {
    const { round, gradients, figures: { tokens } } = work
    await this.#c.state.prepare(gradients, { learningRate: this.#learningRate(round), scale: coefficient / tokens }, this.#meta)
    await this.#contribute(channel, work)
  }

  async #contribute (channel: TrainClientChannel, { round, gradients }: RoundWork): Promise<undefined> {
    const contribution = await this.#c.strategy.contribution(round, this.#c.state, gradients)
    await channel.send(fromClient({ case: 'contribution', value: { round, names: [...contribution.keys()] } }), [...contribution.values()])
  }

  async #step (
    channel: TrainClientChannel,
    { round, scale, leftOut, names, members }: Step,
    tensors: readonly Tensor[]
  ): Promise<TrainEvent | undefined> {
    if (round !== this.#meta.round) return undefined
    const { strategy, state } = this.#c
    const work = this.#workOf(round)
    const took = work !== undefined && !leftOut
    await strategy.finish(state, { counted: took, tensors: state.checked(names, tensors), scale, learningRate: this.#learningRate(round) })
    await this.#goOn(round + 1, took)
    const event = work === undefined ? undefined : this.#event(channel, work, leftOut, members)
    this.#forget()
    if (leftOut) await this.#enlist(channel)
    return event
  }

  #event (channel: TrainClientChannel, work: RoundWork, leftOut: boolean, members: number): TrainEvent {
    const { tokens, inputTokens, lossSum, clippedFraction } = work.figures
    const { run: { done, rounds } } = this.#meta
    const seconds = Math.max(1, Date.now() - work.startedAtMs) / 1000
    return {
      type: 'round',
      round: work.round,
      done,
      rounds,
      loss: Number.isFinite(lossSum) ? lossSum / tokens : null,
      tokens,
      tokensPerSecond: tokens / seconds,
      inputTokens,
      inputTokensPerSecond: inputTokens / seconds,
      ...this.#traffic.sinceLast(channel),
      clippedFraction,
      leftOut,
      members
    }
  }

  /** Goes on to the next place in the rounds and, if this client's work counted, in the data. */
  async #goOn (round: number, counted: boolean): Promise<void> {
    const { run } = this.#meta
    const next = counted ? { ...run, done: run.done + 1, cursor: this.#after(run.cursor) } : run
    this.#meta = { ...this.#meta, round, run: next }
    await this.#write()
  }

  /**
   * Begins to make the place and the state that belongs to it durable, when the write before has ended; the next round is computed
   * meanwhile.
   */
  async #write (): Promise<void> {
    await Promise.allSettled([this.#written])
    const meta = this.#meta
    this.#written = this.#c.state.commit(meta).then(() => { this.#c.onProgress(meta) })
    this.#written.catch(() => {})
  }

  /** The place in the data behind a round's batches. */
  #after (cursor: Cursor): Cursor {
    const { batches, charter: { training: { gradientAccumulationSteps } } } = this.#c
    for (let pass = 0; pass < gradientAccumulationSteps; pass++) cursor = batches.at(cursor).next
    return cursor
  }

  async #withdraw (channel: TrainClientChannel): Promise<void> {
    const signal = AbortSignal.timeout(WITHDRAW_TIMEOUT_MS)
    try {
      await this.#leaveRound(channel, signal)
      await channel.close(signal)
    } catch {
      // The server sees the stream end in any case; the round that it is in goes on after its deadline.
      channel.abort(new Error('the client left'))
    }
  }

  async #leaveRound (channel: TrainClientChannel, signal: AbortSignal): Promise<void> {
    await channel.send(fromClient({ case: 'withdraw', value: {} }), [], signal)
    while ((await channel.receive(signal)).message.kind.case !== 'withdrawn');
  }

  #workOf (round: number): RoundWork | undefined {
    return this.#work?.round === round ? this.#work : undefined
  }

  #forget (): void {
    this.#work?.[Symbol.dispose]()
    this.#work = undefined
  }

  #learningRate (round: number): number {
    const { training: { schedule, optimizer } } = this.#c.charter
    return learningRateAt(schedule, optimizer.learningRate, round)
  }
}

/** Says why there is nothing to do yet. */
function waitingReason ({ members, needed, sitsOutRounds }: Waiting): string {
  if (members < needed) return `the federation has ${members} of the ${needed} members that a round needs`
  if (sitsOutRounds > 0)
    return `this client missed or held up several rounds in a row, and sits out ${sitsOutRounds === 1 ? 'one round' : `${sitsOutRounds} rounds`}`
  return 'the next round begins when this one is over'
}
