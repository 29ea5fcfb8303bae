import type { Parameters } from '../../model/training/parameters.ts'
import { BadMessageError } from '../../protocols/wire/errors.ts'
import { checkMagnitude } from '../../protocols/wire/hidden-states.ts'
import { withSignal } from '../../protocols/wire/wait.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import type { ClientContext } from '../context.ts'
import type { TrainingStream } from '../middle/training-stream.ts'
import { aggregationOf } from '../training/aggregation/factory.ts'
import { blockOf, type AdapterShape } from '../training/aggregation/strategy.ts'
import { middleOf } from './server-route.ts'
import type { ClientSessions } from './sessions.ts'
import type { AdapterState } from './training/adapter-state.ts'
import type { ProgressMeta } from './training/progress.ts'
import type { TrainingLock } from './training/training-lock.ts'

/** Adapters as of a round. */
export interface AdapterSnapshot {
  readonly round: number
  readonly values: ReadonlyMap<string, Tensor>
}

export interface AdapterSyncComponents {
  readonly context: ClientContext
  readonly sessions: ClientSessions
  readonly parameters: Parameters
  readonly state: AdapterState
  readonly lock: TrainingLock
  /** What is trained in this client's own blocks. */
  readonly shapes: readonly AdapterShape[]
}

/** Brings a client's adapters to the federation's, and the federation's to the client. */
export class AdapterSync {
  readonly #c: AdapterSyncComponents
  /** The round that shared adapters were last fetched at, and how many trainings had ended then: each changes the adapters. */
  #fetched: { readonly round: number, readonly trainings: number } | undefined
  /** Settles when the last refresh has ended: two at once would replace the same tensors. */
  #refreshing: Promise<unknown> = Promise.resolve()

  constructor (components: AdapterSyncComponents) {
    this.#c = components
  }

  /** Whether the adapters of this client's blocks are the federation's. */
  get #isShared (): boolean { return aggregationOf(this.#c.context.charter).client.sharesAdapters }

  /** The number of rounds whose steps are in the adapters of this client's blocks. */
  get round (): number {
    const { lock, state } = this.#c
    return !lock.active && this.#fetched?.trainings === lock.ended ? this.#fetched.round : state.progress?.round ?? 0
  }

  /** Whether there is anything to fetch before this client's adapters are used. */
  get #isCurrent (): boolean {
    const { lock, state } = this.#c
    return state.lacking.length === 0 && (lock.active || !this.#isShared)
  }

  /**
   * With shared adapters, brings this client's to the server's round, so that they fit the middle; otherwise, takes over those of blocks
   * that it lacks. Training does so by itself.
   */
  async refresh (stream: TrainingStream, signal: AbortSignal): Promise<void> {
    const before = this.#refreshing
    const mine = withSignal(before, signal).then(async () => { await this.#refresh(stream, signal) })
    this.#refreshing = Promise.allSettled([before, mine])
    await mine
  }

  async #refresh (stream: TrainingStream, signal: AbortSignal): Promise<void> {
    const { context: { charter, client: { partition } }, lock, parameters, state } = this.#c
    if (this.#isCurrent) return
    if (lock.active) return await state.whole(signal)
    if (!this.#isShared) {
      const taken = await takeOver(stream, state, middleOf(charter, partition), signal)
      if (lock.active) return await state.whole(signal)
      await taken()
      return await state.commit(state.progress as ProgressMeta) // without progress nothing is lacking
    }
    const { ended } = lock
    const knownRound = this.#fetched?.trainings === ended ? this.#fetched.round : undefined
    const { round, values } = await fetchAdapters(stream, { knownRound, except: middleOf(charter, partition) }, signal)
    if (lock.active) return await state.whole(signal)
    await parameters.restore(state.checked([...values.keys()], [...values.values()]))
    this.#fetched = { round, trainings: ended }
  }

  /** Does the same on a stream of its own. */
  async refreshAlone (signal: AbortSignal): Promise<void> {
    if (this.#isCurrent) return
    const stream = await this.#c.sessions.training(signal)
    try {
      await this.refresh(stream, signal)
    } finally {
      await stream.close()
    }
  }

  /** Returns every adapter of the model: the server's, with this client's own in place of those of its blocks where they are not shared. */
  async all (signal: AbortSignal): Promise<AdapterSnapshot> {
    const { sessions, parameters, shapes } = this.#c
    const stream = await sessions.training(signal)
    try {
      if (!this.#isShared) await this.refresh(stream, signal)
      const { round, values } = await fetchAdapters(stream, {}, signal)
      if (this.#isShared) return { round, values }
      return { round, values: new Map([...values, ...await parameters.values(shapes.map(({ name }) => name))]) }
    } finally {
      await stream.close()
    }
  }
}

/**
 * Fetches the adapters of blocks that a client lacks, where its adapters are its own: it goes on from the middle's, with an optimiser's
 * state of its own that starts anew. Resolves with what puts them in place.
 */
export async function takeOver (
  stream: TrainingStream,
  state: AdapterState,
  middle: Span,
  signal: AbortSignal
): Promise<() => Promise<void>> {
  const { round, values } = await fetchAdapters(stream, { except: middle }, signal)
  const taken = new Map([...values].filter(([name]) => state.lacking.includes(blockOf(name))))
  const checked = state.checked([...taken.keys()], [...taken.values()])
  return async () => { await state.complete(checked, round) }
}

/** Fetches the server's adapters. Throws BadMessageError for values that no adapter has. */
async function fetchAdapters (
  stream: TrainingStream,
  wanted: { readonly knownRound?: number | undefined, readonly except?: Span },
  signal: AbortSignal
): Promise<AdapterSnapshot> {
  const { knownRound, except } = wanted
  await stream.send(
    { case: 'fetchAdapters', value: { ...(knownRound === undefined ? {} : { knownRound }), ...(except === undefined ? {} : { except }) } },
    [],
    signal
  )
  const { message: { kind }, tensors } = await stream.receive(signal)
  if (kind.case !== 'adapters' || kind.value.names.length !== tensors.length)
    throw new BadMessageError('the server answered something else than it was asked')
  for (const [index, value] of tensors.entries()) checkMagnitude(kind.value.names[index] ?? '', value)
  return { round: kind.value.round, values: new Map(kind.value.names.map((name, index) => [name, tensors[index] as Tensor])) }
}
