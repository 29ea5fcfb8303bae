import type { Batches, Cursor } from '../../../model/text/batches.ts'
import type { AdapterState } from './adapter-state.ts'
import type { ProgressMeta, Run } from './progress.ts'

/**
 * Times that one batch may be released with noise of its own, before the client goes on to the next one: once in each round that does not
 * count it, since the client's blocks change from round to round, and once more after each restart of the client, since devices need not
 * compute the same bits again. A server that never counts a batch would collect releases of almost the same hidden states. The mean of
 * eight has about a third of the noise.
 */
export const MAX_UNCOUNTED = 8

/** A place in the rounds, of a client that has a run. */
export type PlaceMeta = ProgressMeta & { readonly run: Run }

export interface RunPlaceComponents {
  readonly state: Pick<AdapterState, 'commit'>
  readonly batches: Pick<Batches, 'at'>
}

export interface RunPlaceSettings {
  readonly progress: PlaceMeta
  /** Whether the run was begun before, so that its batch may have been released already. */
  readonly resumed: boolean
  /** The last round in which an earlier trainer of the same run released a batch. */
  readonly releasedRound: number | undefined
  /** Rounds from one average of ends to the next; undefined where there are none. */
  readonly averageEvery: number | undefined
  /** Batches of one round. */
  readonly passes: number
  /** Hears what the user has to be told. */
  readonly notify: (notice: string) => void
}

/** Where a run stands in the rounds and in its data, in memory and on disk. */
export class RunPlace {
  readonly #c: RunPlaceComponents
  readonly #settings: RunPlaceSettings
  #meta: PlaceMeta
  /** Whether it is on disk that a batch may have been released since this place was made. */
  #noted = false
  /** The last round in which a batch was released, also where its work was lost with the connection. */
  #releasedRound: number | undefined
  /** The last write of a place and the state that belongs to it, which may be in progress, or have failed. */
  #written: Promise<void> = Promise.resolve()

  constructor (components: RunPlaceComponents, settings: RunPlaceSettings) {
    this.#c = components
    this.#settings = settings
    this.#meta = settings.progress
    this.#releasedRound = settings.releasedRound
  }

  get meta (): PlaceMeta { return this.#meta }

  /** Rounds whose step this client has applied: the number of the next one. */
  get round (): number { return this.#meta.round }

  /** The last round in which a batch was released. */
  get releasedRound (): number | undefined { return this.#releasedRound }

  /** Whether all rounds that were asked for are done. */
  get isDone (): boolean { return this.#meta.run.done >= this.#meta.run.rounds }

  /** Goes on to the next place in the rounds and, if this client's work counted, in the data. */
  async goOn (round: number, counted: boolean): Promise<void> {
    const { run } = this.#meta
    const uncounted = (run.uncounted ?? 0) + (this.#releasedRound === this.#meta.round ? 1 : 0)
    const next = counted
      ? { ...this.#past(run), done: run.done + 1 }
      : run.summedRound === undefined ? this.#unlessWorn({ ...run, uncounted }) : this.#unsummed(run)
    this.#meta = { ...this.#meta, ...this.#tokensAfter(round, counted), round, run: next }
    await this.write()
  }

  /** Notes the tokens of the round, which are not known to count yet. */
  pend (tokens: number): void {
    if (this.#settings.averageEvery !== undefined) this.#meta = { ...this.#meta, pendingTokens: tokens }
  }

  /** Goes back to an earlier round. The rounds in between are done again, with the data that follows. */
  async goBack (round: number): Promise<void> {
    const { run, round: seen } = this.#meta
    this.#meta = { ...this.#meta, round, run: { ...run, done: Math.max(0, run.done - (seen - round)) } }
    await this.write()
  }

  /**
   * Notes that the batch of the round is about to be released, and counts that the release may be another draw where the batch may have
   * been released before this place was made. That is durable when it resolves, before anything leaves: a client that crashes again and
   * again counts each time.
   */
  async noteRelease (): Promise<void> {
    if (!this.#noted) {
      this.#noted = true
      const { run } = this.#meta
      if (this.#settings.resumed) this.#meta = { ...this.#meta, run: this.#unlessWorn({ ...run, uncounted: (run.uncounted ?? 0) + 1 }) }
      await this.write()
      await this.#written
    }
  }

  /**
   * Notes that the server may come to know a sum with what the round's batch adds. That is durable when it resolves, before shares are
   * revealed.
   */
  async noteReveal (): Promise<void> {
    this.#meta = { ...this.#meta, run: { ...this.#meta.run, summedRound: this.#meta.round } }
    await this.write()
    await this.#written
  }

  /**
   * Goes on to another batch where the one of this round is in a secure sum already that came to nothing: of two sums with the same
   * contribution, and others without, the difference shows contributions.
   */
  async leaveSummed (): Promise<void> {
    const { run } = this.#meta
    if (run.summedRound === undefined) return
    this.#meta = { ...this.#meta, run: this.#unsummed(run) }
    await this.write()
  }

  /** Notes that batches leave in this round. */
  enter (): void {
    this.#releasedRound = this.#meta.round
  }

  /**
   * Begins to make the place and the state that belongs to it durable, when the write before has ended; the next round is computed
   * meanwhile.
   */
  async write (): Promise<void> {
    await Promise.allSettled([this.#written])
    this.#written = this.#c.state.commit(this.#meta)
    this.#written.catch(() => {})
  }

  /** Resolves when the place is durable. Throws what the last write failed with. */
  async written (): Promise<void> {
    await this.#written
  }

  /** The tokens since the last average once the federation is at this round, with those of the round where it counted. */
  #tokensAfter (round: number, counted: boolean): Pick<PlaceMeta, 'unaveragedTokens' | 'pendingTokens'> {
    const { averageEvery: every } = this.#settings
    if (every === undefined) return {}
    const isAveraged = Math.floor(round / every) > Math.floor(this.#meta.round / every)
    const { unaveragedTokens = 0, pendingTokens = 0 } = this.#meta
    return { unaveragedTokens: isAveraged ? 0 : unaveragedTokens + (counted ? pendingTokens : 0), pendingTokens: 0 }
  }

  #unsummed (run: Run): Run {
    this.#settings.notify('a batch is left out: what this client added for it may be in a secure sum that did not count')
    return this.#past(run)
  }

  /** A run at its batch, or at the next one where that was released as often as it may be. */
  #unlessWorn (run: Run): Run {
    const { uncounted = 0 } = run
    if (uncounted < MAX_UNCOUNTED) return run
    this.#settings.notify(`a batch did not count in ${uncounted} rounds, and is left out: releasing it more often would show it`)
    return this.#past(run)
  }

  #past ({ summedRound: _, ...run }: Run): Run {
    return { ...run, uncounted: 0, cursor: this.#after(run.cursor) }
  }

  /** The place in the data behind a round's batches. */
  #after (cursor: Cursor): Cursor {
    for (let pass = 0; pass < this.#settings.passes; pass++) cursor = this.#c.batches.at(cursor).next
    return cursor
  }
}
