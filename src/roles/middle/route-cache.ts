import { Backoff } from '../../backoff.ts'
import { isDefect, isRetryable, MidspanError } from '../../errors.ts'
import { ChannelTimeoutError } from '../../protocols/wire/errors.ts'
import { blocksText, type Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import { AnswerWait } from './answer-wait.ts'
import { firstTokens, joined } from './history.ts'
import type { RouteRecord } from './route-record.ts'
import { RouteStatistics } from './route-statistics.ts'
import type { ChosenStage, StageSource } from './stage-source.ts'
import { checkPosition, tokensOf, type CachedHiddenStates, type StageCache } from './stage.ts'

export interface RouteOptions {
  /** How long a sequence may go without an answer, tries on new sessions included; no limit unless given. */
  readonly timeoutMs?: number
  /**
   * Hidden states that are sent again together when a cache is built anew. 1 sends them as they were sent first, for models whose rotations
   * depend on how many states come at once; unless given, as many as a windowed model takes.
   */
  readonly replayTokens?: number
  /** Called with what a sequence waits for when its answer is late. */
  readonly onWaiting?: (reason: string) => void
  /** The least time after which a late answer is given up where other servers can take the stage; 5 s unless given. */
  readonly leastStallMs?: number
  /** Counts what each server does. */
  readonly statistics?: RouteStatistics
  /** Keeps what each server answers. */
  readonly record?: RouteRecord
}

/** Hidden states that are sent again together: a run of a windowed model takes this many at most. */
export const REPLAY_TOKENS = 512

/** A server that restarts is back within seconds. */
const FIRST_RETRY_MS = 200
const GREATEST_RETRY_MS = 5_000

/** A server that answers at all answers within seconds, also where a long prompt of another client comes before. */
const LEAST_STALL_MS = 5_000

/** How much longer than the measured time of the same number of tokens an answer may take besides. Load comes and goes. */
const STALL_FACTOR = 10

/** What a token is taken to need where nothing was measured. */
const UNMEASURED_TOKEN_MS = 100

/** The opening of a sequence takes three round trips, and may wait 10 s at the server for room in its cache. */
const OPEN_STALL_MS = 15_000

/** Thrown where the server of a stage failed: what it was, and which blocks it had. It keeps the code of the failure. */
export class StageError extends MidspanError {
  readonly server: string

  constructor ({ server, span }: Pick<ChosenStage, 'server' | 'span'>, cause: MidspanError) {
    super(cause.code, `${server} (${blocksText([span])}): ${cause.message}`, { cause, next: cause.next, retryable: cause.retryable })
    this.server = server
  }
}

/** The cache of one stage of a route. */
interface Leg extends ChosenStage {
  /** Undefined while the stage is not open. */
  cache: StageCache | undefined
  /** What the cache holds, in order, as it came to the stage; undefined until the stage before has computed it again. */
  history: CachedHiddenStates[] | undefined
  /** Milliseconds that answers took, and the tokens in them. */
  measured: { ms: number, tokens: number }
}

/**
 * A cache over the stages of a route that outlives them. It keeps what each stage was sent: the states that the client released for the
 * first one, the answers of the one before for the others. A stage that fails, or whose answer is late while other servers have its
 * blocks, is replaced alone: others are chosen for its blocks and sent what it was sent, as it was. Where there are no others, the sequence
 * waits until the server is back or another one comes.
 */
export class RouteCache implements StageCache {
  readonly capacity: number
  readonly #source: StageSource
  readonly #options: RouteOptions
  readonly #statistics: RouteStatistics
  #legs: Leg[] = []
  #length = 0
  /** Late answers that were given up. Each doubles the patience, so that a crowd that is slow everywhere does not wander about. */
  #stalls = 0

  private constructor (source: StageSource, capacity: number, options: RouteOptions) {
    this.capacity = capacity
    this.#source = source
    this.#options = options
    this.#statistics = options.statistics ?? new RouteStatistics()
  }

  /** Opens caches for the blocks of a span. The caller closes them. Throws what the last try failed with, as `forward` does. */
  static async open (
    source: StageSource,
    span: Span,
    { capacity, ...options }: RouteOptions & { readonly capacity: number },
    signal?: AbortSignal
  ): Promise<RouteCache> {
    const route = new RouteCache(source, capacity, options)
    try {
      await route.#waiting(signal, async (wait) => {
        route.#legs = (await route.#choose(span, undefined, wait)).map((chosen) => newLeg(chosen, []))
        for (let index = 0; index < route.#legs.length; index++) await route.#atLeg(index, wait, async () => {})
      })
      return route
    } catch (error) {
      await route.close()
      throw error
    }
  }

  get length (): number { return this.#length }

  /** Throws a StageError where a stage failed for good, and the last one where no stage answered for `timeoutMs`. */
  async forward (states: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]> {
    return await this.#waiting(signal, async (wait) => {
      let hidden = states
      try {
        // A leg may be replaced by several while the states are at it.
        for (let index = 0; index < this.#legs.length; index++) {
          const tensors = await this.#atLeg(index, wait, async (leg, cache) => {
            const outputs = await this.#ask(leg, cache, hidden, wait, false)
            leg.history!.push(hidden)
            return outputs
          })
          hidden = { tensors, context: states.context }
        }
      } catch (error) {
        this.rewind(this.#length)
        throw error
      }
      this.#length += tokensOf(states.tensors)
      return hidden.tensors
    })
  }

  rewind (position: number): void {
    checkPosition(position, this.#length)
    this.#length = position
    for (const leg of this.#legs) {
      leg.history &&= firstTokens(leg.history, position)
      if (leg.cache !== undefined && leg.cache.length > position) leg.cache.rewind(position)
    }
  }

  async close (): Promise<void> {
    await Promise.allSettled(this.#legs.map(async (leg) => { await this.#close(leg) }))
  }

  async #waiting<Result> (signal: AbortSignal | undefined, work: (wait: AnswerWait) => Promise<Result>): Promise<Result> {
    const { timeoutMs = Infinity, onWaiting = () => {} } = this.#options
    const wait = new AnswerWait({ timeoutMs, onWaiting }, signal)
    try {
      return await work(wait)
    } catch (error) {
      wait.signal.throwIfAborted()
      throw error
    } finally {
      wait.end()
    }
  }

  /** Does something with the cache of a leg once it is open and holds the leg's history; at another leg in its place, where it fails. */
  async #atLeg<Result> (index: number, wait: AnswerWait, work: (leg: Leg, cache: StageCache) => Promise<Result>): Promise<Result> {
    const backoff = new Backoff({ firstMs: FIRST_RETRY_MS, greatestMs: GREATEST_RETRY_MS })
    for (;;) {
      const leg = this.#legs[index]!
      try {
        return await work(leg, leg.cache ?? await this.#opened(index, wait))
      } catch (error) {
        const closing = this.#close(leg)
        // A caller that ends finds the session closed; what is lost would say no goodbye in time.
        if (wait.signal.aborted) await closing
        wait.signal.throwIfAborted()
        if (!(error instanceof Error) || isDefect(error)) throw error
        // A stage over several servers says itself which of them failed.
        const named = error instanceof MidspanError && !(error instanceof StageError) ? new StageError(leg, error) : error
        this.#source.leaveOut(named instanceof StageError ? named.server : leg.server, named)
        this.#replace(index, await this.#choose(leg.span, named, wait, backoff))
      }
    }
  }

  /** Opens the cache of a leg and sends it the leg's history, which gives the history of the next leg where that is not known. */
  async #opened (index: number, wait: AnswerWait): Promise<StageCache> {
    const leg = this.#legs[index]!
    const { server, span, stage } = leg
    wait.late = `${blocksText([span])}: ${server} has not answered yet`
    const cache = await this.#unlessStalled(leg, OPEN_STALL_MS, wait, async (signal) => await stage.openCache(span, this.capacity, signal))
    leg.cache = cache
    this.#statistics.opened(server, span, cache)
    const next = this.#legs[index + 1]
    const outputs: CachedHiddenStates[] = []
    for (const states of joined(leg.history!, this.#options.replayTokens ?? REPLAY_TOKENS))
      outputs.push({ tensors: await this.#ask(leg, cache, states, wait, true), context: states.context })
    if (next !== undefined) next.history ??= outputs
    return cache
  }

  async #ask (leg: Leg, cache: StageCache, states: CachedHiddenStates, wait: AnswerWait, isReplay: boolean): Promise<readonly Tensor[]> {
    const { server, span, measured, tokenMs = UNMEASURED_TOKEN_MS } = leg
    const tokens = tokensOf(states.tensors)
    const leastMs = (this.#options.leastStallMs ?? LEAST_STALL_MS) * 2 ** this.#stalls
    const expectedMs = tokens * (measured.tokens > 0 ? measured.ms / measured.tokens : tokenMs)
    const startedAtMs = performance.now()
    wait.late = `${blocksText([span])}: ${server} has not answered yet`
    const outputs = await this.#unlessStalled(
      leg, leastMs + STALL_FACTOR * expectedMs, wait, async (signal) => await cache.forward(states, signal)
    )
    const ms = performance.now() - startedAtMs
    // A server that answers what it was sent again, and never what is new, does not bring the text on.
    if (!isReplay) wait.answered()
    measured.ms += ms
    measured.tokens += tokens
    this.#statistics.answered(server, span, cache, { tokens, ms, isReplay })
    this.#options.record?.answered(leg, cache, states, outputs)
    return outputs
  }

  /** Gives up an answer of a leg that is later than this as soon as other servers can take its blocks. Throws ChannelTimeoutError. */
  async #unlessStalled<Result> (
    { server, span }: Leg,
    timeoutMs: number,
    wait: AnswerWait,
    work: (signal: AbortSignal) => Promise<Result>
  ): Promise<Result> {
    const stalled = new AbortController()
    let off = (): void => {}
    const look = (): void => {
      if (stalled.signal.aborted || !this.#source.hasOther(span, server)) return
      this.#stalls++
      stalled.abort(new ChannelTimeoutError('the server did not answer', timeoutMs))
    }
    const timer = setTimeout(() => {
      off = this.#source.onChanged(look)
      look()
    }, timeoutMs)
    try {
      return await work(AbortSignal.any([wait.signal, stalled.signal]))
    } finally {
      clearTimeout(timer)
      off()
    }
  }

  /**
   * Chooses stages for a span for the first time, or after a failure. After one, where only doubtful stages are left, they are tried after
   * a pause, which ends early when a better choice appears. Throws the failure where it does not pass and there is no better choice.
   */
  async #choose (span: Span, failure: Error | undefined, wait: AnswerWait, backoff?: Backoff): Promise<readonly ChosenStage[]> {
    const sound = (): readonly ChosenStage[] | undefined => {
      const chosen = this.#source.choose(span)
      return chosen?.some(({ isDoubtful }) => isDoubtful) === true ? undefined : chosen
    }
    let chosen = failure === undefined ? this.#source.choose(span) : sound()
    if (chosen !== undefined) return chosen
    if (failure !== undefined && !isRetryable(failure)) throw failure
    wait.failed(failure ?? new NobodyServesError(this.#source.missing(span)))
    for (const pauses = backoff ?? new Backoff({ firstMs: FIRST_RETRY_MS, greatestMs: GREATEST_RETRY_MS }); chosen === undefined;) {
      const why = failure === undefined ? '' : ` (${failure.message})`
      wait.tell(`${blocksText(this.#source.missing(span))}: nobody serves them now${why}; the text goes on when somebody does`)
      chosen = await this.#changed(sound, pauses, wait.signal) ?? this.#source.choose(span)
    }
    return chosen
  }

  /** Resolves with a choice as soon as there is one, or with undefined after a pause. Throws the signal's reason. */
  async #changed<Choice> (choice: () => Choice | undefined, pauses: Backoff, signal: AbortSignal): Promise<Choice | undefined> {
    const { promise, resolve } = Promise.withResolvers<Choice>()
    const over = new AbortController()
    const off = this.#source.onChanged(() => {
      const chosen = choice()
      if (chosen !== undefined) resolve(chosen)
    })
    try {
      return await Promise.race([promise, pauses.wait(AbortSignal.any([signal, over.signal])).then(() => undefined)])
    } catch (error) {
      signal.throwIfAborted()
      throw error
    } finally {
      off()
      over.abort()
    }
  }

  /** Puts stages in the place of a leg. The first gets its history; those of the others follow from it when it is sent again. */
  #replace (index: number, chosen: readonly ChosenStage[]): void {
    const history = this.#legs[index]!.history!
    const unknown = history.length === 0 ? [] : undefined
    this.#legs.splice(index, 1, ...chosen.map((stage, i) => newLeg(stage, i === 0 ? history : unknown && [...unknown])))
  }

  async #close (leg: Leg): Promise<void> {
    const { cache } = leg
    if (cache === undefined) return
    leg.cache = undefined
    try {
      await cache.close()
    } catch {
      // A session that is lost already needs no goodbye.
    } finally {
      this.#statistics.closed(leg.server, leg.span, cache)
    }
  }
}

/** Thrown where no server serves some blocks. One may come. */
export class NobodyServesError extends MidspanError {
  constructor (missing: readonly Span[]) {
    super('E_NO_SERVER', `${blocksText(missing)}: nobody serves them`, {
      next: 'see `midspan servers`; the daemon goes on as soon as somebody does', retryable: true
    })
  }
}

function newLeg (chosen: ChosenStage, history: CachedHiddenStates[] | undefined): Leg {
  return { ...chosen, cache: undefined, history, measured: { ms: 0, tokens: 0 } }
}
