import type { Parameters } from '../../model/training/parameters.ts'
import { BadMessageError } from '../../protocols/wire/errors.ts'
import { checkMagnitude } from '../../protocols/wire/hidden-states.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import { clientSpans } from '../charter-settings.ts'
import type { ClientContext } from '../context.ts'
import type { TrainingStream } from '../middle/training-stream.ts'
import { aggregationOf } from '../training/aggregation/factory.ts'
import type { AdapterShape } from '../training/aggregation/strategy.ts'
import type { ClientSessions } from './sessions.ts'
import type { AdapterState } from './training/adapter-state.ts'
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

  /** With shared adapters, brings this client's to the server's round, so that they fit the middle. Training does so by itself. */
  async refresh (stream: TrainingStream, signal: AbortSignal): Promise<void> {
    const { context: { charter, client: { partition } }, lock, parameters, state } = this.#c
    if (!this.#isShared || lock.active) return
    const [bottom, top] = clientSpans(charter, partition)
    const { ended } = lock
    const knownRound = this.#fetched?.trainings === ended ? this.#fetched.round : undefined
    const { round, values } = await fetchAdapters(stream, { knownRound, except: { first: bottom.end, end: top.first } }, signal)
    if (lock.active) return
    await parameters.restore(state.checked([...values.keys()], [...values.values()]))
    this.#fetched = { round, trainings: ended }
  }

  /** Does the same on a stream of its own. */
  async refreshAlone (signal: AbortSignal): Promise<void> {
    if (!this.#isShared || this.#c.lock.active) return
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
      const { round, values } = await fetchAdapters(stream, {}, signal)
      if (this.#isShared) return { round, values }
      return { round, values: new Map([...values, ...await parameters.values(shapes.map(({ name }) => name))]) }
    } finally {
      await stream.close()
    }
  }
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
