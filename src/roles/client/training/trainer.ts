import type { ProgressOf } from '../../../api/operations.ts'
import { Backoff } from '../../../backoff.ts'
import { isRetryable, MidspanError } from '../../../errors.ts'
import type { Boundary } from '../../../model/privacy/boundary.ts'
import type { Device } from '../../../model/runtime/device.ts'
import type { Batches } from '../../../model/text/batches.ts'
import type { ClientModel } from '../../../model/training/client-model.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'
import { ROUNDS_AHEAD_NEXT, RoundsAheadError } from '../../../protocols/train/errors.ts'
import type { ServerMessage } from '../../../protocols/train/messages.ts'
import type { Coefficient, Step } from '../../../protocols/train/train_pb.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import type { Tensor } from '../../../tensor.ts'
import type { ClientProtection } from '../../charter-settings.ts'
import { PassInterruptedError, type TrainingStream } from '../../middle/training-stream.ts'
import type { ClientStrategy } from '../../training/aggregation/strategy.ts'
import { takeOver } from '../adapter-sync.ts'
import type { ReleaseLedger } from '../release-ledger.ts'
import type { ReleaseSecret } from '../release-secret.ts'
import { middleOf, routeOf } from '../server-route.ts'
import type { ClientSessions } from '../sessions.ts'
import { TrafficMeter, type Traffic } from '../traffic.ts'
import type { AdapterState } from './adapter-state.ts'
import { ClientRound } from './client-round.ts'
import { HandIn } from './hand-in.ts'
import { Releases } from './releases.ts'
import { RoundRepeats } from './round-repeats.ts'
import { RunPlace, type PlaceMeta } from './run-place.ts'
import { SecureContributions, type SecureContributionsOptions } from './secure-contributions.ts'
import { waitingReason } from './waiting-reason.ts'
import type { WithheldGate } from './withheld-gate.ts'

export type TrainEvent = Extract<ProgressOf<'train'>, { readonly type: 'waiting' | 'round' }>

export interface ClientTrainerComponents {
  readonly device: Device
  readonly model: ClientModel
  readonly boundary: Boundary
  readonly secret: ReleaseSecret
  readonly ledger: Pick<ReleaseLedger, 'record'>
  readonly state: AdapterState
  readonly sessions: Pick<ClientSessions, 'training'>
  readonly batches: Batches
  readonly strategy: ClientStrategy
  /** Where words are withheld: how much of what the middle adds goes to them. */
  readonly gate?: WithheldGate | undefined
}

export interface ClientTrainerSettings {
  readonly charter: Charter
  readonly partition: Partition
  /** This client, as the servers know it. */
  readonly peer: string
  readonly protection: ClientProtection
  readonly progress: PlaceMeta
  /** Whether the run was begun before, so that work of it may have counted without this client's knowing. */
  readonly resumed: boolean
  /** Whether the client goes on from the server's rounds where it has seen more than the server has. */
  readonly rewind: boolean
  /** Stops the trainer between two rounds, so that another one goes on from its place. */
  readonly makeWay?: AbortSignal
  /** The last round in which an earlier trainer of the same run released a batch. */
  readonly releasedRound?: number
  /** Counts on from an earlier trainer of the same run. */
  readonly traffic?: TrafficMeter
  /** What this client's part in secure sums needs, where the federation has them. */
  readonly secure?: Omit<SecureContributionsOptions, 'noteReveal' | 'notify'> | undefined
}

/** Often enough that a server that comes back is found within a few seconds. */
const RECONNECT = { firstMs: 200, greatestMs: 5_000 }

/** How long a goodbye may take. */
const WITHDRAW_TIMEOUT_MS = 5_000

/** Rounds whose numbers a server may name. */
const MAX_ROUND = 2 ** 31 - 1

/** Follows the rounds of a federation with this client's own text, until it has done as many as it was asked for. */
export class ClientTrainer {
  readonly #c: ClientTrainerComponents
  readonly #settings: ClientTrainerSettings
  readonly #releases: Releases
  readonly #repeats = new RoundRepeats()
  readonly #hands: HandIn
  readonly #place: RunPlace
  #work: ClientRound | undefined
  #begun: boolean
  /** Whether the round that goes on may have this client's work, of which this trainer knows nothing. */
  #mayCount = false
  /** Whether the server has fewer rounds than this client has seen, and the client is about to go back to them. */
  #rewinding = false
  readonly #traffic: TrafficMeter
  /** What the user has to be told, in order. */
  readonly #notices: string[] = []
  #noticed = Promise.withResolvers<void>()

  constructor (components: ClientTrainerComponents, settings: ClientTrainerSettings) {
    this.#c = components
    this.#settings = settings
    this.#releases = new Releases(components, { protection: settings.protection, run: settings.progress.run.key })
    const { charter, progress, resumed, releasedRound } = settings
    const secure = settings.secure === undefined
      ? undefined
      : new SecureContributions({
        ...settings.secure,
        noteReveal: async () => { await this.#place.noteReveal() },
        notify: (notice) => { this.#notice(notice) }
      })
    this.#hands = new HandIn({ ...components, charter, secure })
    this.#place = new RunPlace(components, {
      progress,
      resumed,
      releasedRound,
      averageEvery: charter.ends.mode === 'average' ? charter.ends.every : undefined,
      passes: charter.training.gradientAccumulationSteps,
      notify: (notice) => { this.#notices.push(notice) }
    })
    this.#begun = resumed
    this.#traffic = settings.traffic ?? new TrafficMeter()
  }

  /** Whether all rounds that were asked for are done. */
  get isDone (): boolean { return this.#place.isDone }

  /** Where the run stands, and whether it has been begun: for another trainer that goes on from there. */
  get place (): Pick<ClientTrainerSettings, 'progress' | 'resumed' | 'releasedRound'> {
    const { meta, releasedRound } = this.#place
    return { progress: meta, resumed: this.#begun, ...(releasedRound === undefined ? {} : { releasedRound }) }
  }

  /** Bytes on the wire since the start. */
  get traffic (): Traffic { return this.#traffic.total }

  /**
   * Takes part until the run is done, or until it has to make way and no round has work of this client's. A lost connection is opened
   * again, and what the rounds need survives it. Throws what no other try can mend: a server's refusal, RoundRepeatedError, a full disk.
   */
  async * run (signal: AbortSignal): AsyncGenerator<TrainEvent> {
    const backoff = new Backoff(RECONNECT)
    while (!this.isDone && !this.#makesWay) {
      try {
        for await (const event of this.#follow(signal)) {
          backoff.reset()
          yield event
        }
      } catch (error) {
        signal.throwIfAborted()
        if (this.#makesWay && (isRetryable(error) || error === this.#settings.makeWay?.reason)) return
        if (this.#settings.rewind && !this.#rewinding && error instanceof MidspanError && error.code === RoundsAheadError.code) {
          this.#rewinding = true
          continue
        }
        if (!isRetryable(error)) throw asRoundsAhead(error)
        yield {
          type: 'waiting',
          reason: `the connection was lost (${error instanceof Error ? error.message : String(error)}); trying again`
        }
        await backoff.wait(this.#idleSignal(signal)).catch(() => { signal.throwIfAborted() })
      } finally {
        this.#forget()
        await Promise.allSettled([this.#place.written()])
      }
    }
  }

  get #makesWay (): boolean { return this.#settings.makeWay?.aborted === true }

  /** A signal for waits in which no round has work of this client's: they end when it has to make way. */
  #idleSignal (signal: AbortSignal): AbortSignal {
    const { makeWay } = this.#settings
    return makeWay === undefined || this.#work !== undefined ? signal : AbortSignal.any([signal, makeWay])
  }

  async * #follow (signal: AbortSignal): AsyncGenerator<TrainEvent> {
    const stream = this.#traffic.watch(await this.#c.sessions.training(this.#idleSignal(signal)))
    stream.onWaiting = (reason) => { this.#notice(waitingReason(reason)) }
    // A server that takes nothing more must not keep a client from stopping.
    const giveUp = (): void => { setTimeout(() => { stream.abort(new Error('the client left')) }, WITHDRAW_TIMEOUT_MS).unref() }
    signal.addEventListener('abort', giveUp, { once: true })
    let clean = false
    try {
      // What could not be written is written before anything follows from it.
      await this.#place.written().catch(async () => { await this.#place.write() })
      // The round in progress may have work of another run of this client's: that is not gone on with.
      if (!this.#begun) await this.#leaveRound(stream, signal)
      await this.#takeOver(stream, signal)
      await this.#enlist(stream)
      while (!this.isDone && (!this.#makesWay || this.#work !== undefined)) {
        const handling = this.#handle(stream, await stream.receive(this.#idleSignal(signal)), signal)
        yield * this.#noticesDuring(handling)
        const event = await handling
        if (event !== undefined) yield event
      }
      await this.#place.written()
      // A client that makes way stays a member, and the next round waits for it.
      clean = this.isDone
    } finally {
      signal.removeEventListener('abort', giveUp)
      if (clean || signal.aborted) await this.#withdraw(stream)
      else stream.abort(new Error('the client lost its place'))
    }
  }

  /** Tells the user at once, also in the middle of a pass. */
  #notice (reason: string): void {
    this.#notices.push(reason)
    this.#noticed.resolve()
  }

  /** Tells the user what comes up while work is in progress. Ends when the work does. */
  async * #noticesDuring (work: Promise<unknown>): AsyncGenerator<TrainEvent> {
    let isOver = false
    const over = work.catch(() => {}).then(() => { isOver = true }) // whoever awaits the work hears of its failure
    try {
      while (!isOver) {
        await Promise.race([over, this.#noticed.promise])
        this.#noticed = Promise.withResolvers()
        for (const reason of this.#notices.splice(0)) yield { type: 'waiting', reason }
      }
    } finally {
      await over
    }
  }

  async #handle (
    stream: TrainingStream,
    { message: { kind }, tensors }: Received<ServerMessage>,
    signal: AbortSignal
  ): Promise<TrainEvent | undefined> {
    switch (kind.case) {
      case 'enlisted':
        return await this.#reconcile(kind.value, tensors)
      case 'waiting':
        return { type: 'waiting', reason: waitingReason(kind.value) }
      case 'begin':
        return await this.#begin(stream, kind.value.round, signal)
      case 'coefficient':
        return await this.#coefficient(stream, kind.value)
      case 'secureRequest':
        await this.#hands.secure(stream, kind.value)
        return undefined
      case 'step':
        return await this.#step(stream, kind.value, tensors)
      case 'withdrawn':
        // What it did for the round is lost, also where the round is tried again without it.
        this.#forget()
        return await this.#enlist(stream)
      default: throw new BadMessageError('the server sent a message that training does not have')
    }
  }

  /** Where adapters are this client's own, begins with the middle's in blocks that it lacks. */
  async #takeOver (stream: TrainingStream, signal: AbortSignal): Promise<void> {
    const { state, strategy } = this.#c
    if (strategy.sharesAdapters || state.lacking.length === 0) return
    const { charter, partition } = this.#settings
    await (await takeOver(stream, state, middleOf(charter, partition), signal))()
    await this.#place.write()
  }

  async #enlist (stream: TrainingStream): Promise<undefined> {
    const { charter, partition } = this.#settings
    // A client that goes back, or that has new blocks, takes over all of the server's state, as one that has seen no round.
    const round = this.#rewinding || this.#c.state.lacking.length > 0 ? 0 : this.#place.round
    await stream.send({ case: 'enlist', value: { middle: middleOf(charter, partition), round } })
  }

  async #coefficient (stream: TrainingStream, { round, coefficient }: Coefficient): Promise<undefined> {
    const work = this.#workOf(round)
    if (work !== undefined) await this.#hands.coefficient(stream, work, coefficient, this.#place.meta)
  }

  /** Finds out what became of the round that this client was cut off in, and takes over the state that it missed. */
  async #reconcile (
    { round, countedRound, names }: { round: number, countedRound: number, names: readonly string[] },
    tensors: readonly Tensor[]
  ): Promise<undefined> {
    if (round > MAX_ROUND) throw new BadMessageError(`the server is at round ${round}: there are ${MAX_ROUND} at most`)
    if (round < this.#place.round) {
      if (!this.#rewinding) throw new RoundsAheadError(round, this.#place.round)
      return await this.#rewind(round, this.#c.state.checked(names, tensors))
    }
    this.#rewinding = false
    // The round goes on: what this client handed in for it may still count.
    if (round === this.#place.round) {
      this.#mayCount = this.#begun
      if (this.#c.state.lacking.length > 0) await this.#c.state.complete(this.#c.state.checked(names, tensors), round)
      await this.#c.state.suspend()
      return
    }
    this.#mayCount = false
    const state = this.#c.state.checked(names, tensors)
    // Work for the round that this client was in can have counted in that round alone.
    const counted = countedRound === this.#place.round + 1
    await this.#hands.settle(this.#place.round, counted)
    if (counted) await this.#c.state.promote()
    else await this.#c.state.revert()
    await this.#c.state.complete(state, round)
    await this.#place.goOn(round, counted && this.#begun)
  }

  /**
   * Goes back to the server's round. With shared adapters the client takes over the server's; adapters of its own stay as they are. The
   * rounds in between are done again, with the data that follows.
   */
  async #rewind (round: number, state: ReadonlyMap<string, Tensor>): Promise<undefined> {
    const { strategy, state: own } = this.#c
    const seen = this.#place.round
    await this.#hands.settle(seen, false)
    await own.revert()
    if (strategy.sharesAdapters && round === 0) await own.reset()
    else await own.complete(state, round)
    this.#rewinding = false
    this.#notices.push(
      `went back from round ${seen} to round ${round}, which the server is at` +
        (strategy.sharesAdapters ? '' : "; this client's own blocks keep what they have learnt")
    )
    await this.#place.goBack(round)
  }

  /** Computes the passes of a round and hands in what they came to, unless the server ends the round meanwhile. */
  async #begin (stream: TrainingStream, round: number, signal: AbortSignal): Promise<undefined> {
    // A step was missed, as when it was said on a stream that had just been replaced.
    if (round !== this.#place.round) return await this.#enlist(stream)
    this.#forget()
    this.#mayCount = false
    const notice = this.#repeats.count(round)
    if (notice !== undefined) this.#notices.push(notice)
    this.#begun = true
    await this.#place.leaveSummed()
    await this.#place.noteRelease()
    // The same round may begin anew, after this client has prepared its step.
    await this.#c.state.suspend()
    this.#place.enter()
    const { charter, partition, peer } = this.#settings
    const { gradientAccumulationSteps } = charter.training
    const route = routeOf({ training: stream }, { charter, partition })
    const { run: { cursor } } = this.#place.meta
    const work = this.#work = new ClientRound({ ...this.#c, releases: this.#releases }, { round, peer, cursor })
    try {
      while (work.pass < gradientAccumulationSteps) await work.run(route, signal)
    } catch (error) {
      if (error instanceof PassInterruptedError) return
      throw error
    }
    await this.#handIn(stream, work)
  }

  async #handIn (stream: TrainingStream, work: ClientRound): Promise<undefined> {
    // Work that is handed in may count, and a client that is killed must then find the round and the run that it is of.
    await this.#place.written()
    this.#place.pend(work.figures.tokens)
    await this.#hands.begin(stream, work, this.#place.meta)
  }

  async #step (
    stream: TrainingStream,
    { round, scale, leftOut, names, members }: Step,
    tensors: readonly Tensor[]
  ): Promise<TrainEvent | undefined> {
    if (round !== this.#place.round) return undefined
    const work = this.#workOf(round)
    // Work of before this client changed its blocks, or was started again, may be in the step: the server knows.
    if (work === undefined && this.#mayCount) return await this.#enlist(stream)
    const took = work !== undefined && !leftOut
    await this.#hands.finish(round, { counted: took, tensors: this.#c.state.checked(names, tensors), scale })
    await this.#place.goOn(round + 1, took)
    const event = work === undefined ? undefined : this.#event(work, leftOut, members)
    this.#forget()
    if (leftOut) await this.#enlist(stream)
    return event
  }

  #event (work: ClientRound, leftOut: boolean, members: number): TrainEvent {
    const { lossTokens: tokens, inputTokens, lossSum, clippedFraction } = work.figures
    const { run: { done, rounds } } = this.#place.meta
    const seconds = Math.max(1, performance.now() - work.startedAtMs) / 1000
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
      gradientNorm: Number.isFinite(work.gradientNorm) ? work.gradientNorm! : null,
      ...this.#traffic.sinceLast(),
      clippedFraction,
      leftOut,
      members
    }
  }

  async #withdraw (stream: TrainingStream): Promise<void> {
    const signal = AbortSignal.timeout(WITHDRAW_TIMEOUT_MS)
    try {
      await this.#leaveRound(stream, signal)
      await stream.close(signal)
    } catch {
      // The server sees the stream end in any case; the round that it is in goes on after its deadline.
      stream.abort(new Error('the client left'))
    }
  }

  async #leaveRound (stream: TrainingStream, signal: AbortSignal): Promise<void> {
    await stream.send({ case: 'withdraw', value: {} }, [], signal)
    while ((await stream.receive(signal)).message.kind.case !== 'withdrawn');
  }

  #workOf (round: number): ClientRound | undefined {
    return this.#work?.round === round ? this.#work : undefined
  }

  #forget (): void {
    this.#hands.forget()
    this.#work?.[Symbol.dispose]()
    this.#work = undefined
  }
}

/** Adds what to do to a server's refusal of a client that has seen more rounds. */
function asRoundsAhead (error: unknown): unknown {
  if (!(error instanceof MidspanError) || error.code !== RoundsAheadError.code) return error
  return new MidspanError(error.code, error.message, { cause: error, next: ROUNDS_AHEAD_NEXT })
}
