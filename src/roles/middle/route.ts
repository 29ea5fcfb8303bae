import { Backoff } from '../../backoff.ts'
import { isRetryable } from '../../errors.ts'
import type { PromptContext } from '../../model/families/index.ts'
import { ChannelTimeoutError } from '../../protocols/wire/errors.ts'
import type { Span } from '../../span.ts'
import { joinTensorRows, tensorRows, type Tensor } from '../../tensor.ts'
import {
  checkPosition,
  tokensOf,
  type BatchItem,
  type CachedHiddenStates,
  type ForwardPass,
  type OutputGradient,
  type PassOptions,
  type Stage,
  type StageCache
} from './stage.ts'

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
}

/** A run of a windowed model takes this many hidden states at most. */
const REPLAY_TOKENS = 512

/** A user is told what is waited for when nothing has come for so long. */
const WAITING_AFTER_MS = 4_000

/** A server that restarts is back within seconds. */
const FIRST_RETRY_MS = 200
const GREATEST_RETRY_MS = 5_000

/** The ordered stages that carry one client's middle. It is a stage itself. */
export class Route implements Stage {
  readonly span: Span
  readonly #stages: readonly Stage[]
  readonly #options: RouteOptions

  /** Throws RangeError unless each stage begins where the one before ends. */
  constructor (stages: readonly Stage[], options: RouteOptions = {}) {
    const [first, last] = [stages[0], stages.at(-1)]
    if (first === undefined || last === undefined) throw new RangeError('a route has at least one stage')
    if (stages.some(({ span }, i) => i > 0 && span.first !== stages[i - 1]?.span.end))
      throw new RangeError('a stage of a route begins where the one before ends')
    this.span = { first: first.span.first, end: last.span.end }
    this.#stages = stages
    this.#options = options
  }

  async forward (items: readonly BatchItem[], options: PassOptions, signal?: AbortSignal): Promise<ForwardPass> {
    const passes: StagePass[] = []
    let hidden: ReadonlyMap<string, readonly Tensor[]> = new Map(items.map(({ id, tensors }) => [id, tensors]))
    try {
      for (const stage of this.#stages) {
        const parts = items.flatMap((item) => partsOf(item, stage).map((part) => ({ ...part, tensors: hidden.get(item.id) ?? [] })))
        if (parts.length === 0) continue
        const pass = await stage.forward(parts, options, signal)
        passes.push({ pass, ids: new Set(parts.map(({ id }) => id)) })
        hidden = new Map([...hidden, ...pass.hidden])
      }
      return new RoutePass(passes, hidden)
    } catch (error) {
      for (const { pass } of passes) pass.free()
      throw error
    }
  }

  async evaluate (item: BatchItem, signal?: AbortSignal): Promise<readonly Tensor[]> {
    let { tensors } = item
    for (const stage of this.#stages)
      for (const part of partsOf(item, stage)) tensors = await stage.evaluate({ ...part, tensors }, signal)
    return tensors
  }

  /**
   * Opens a cache that outlives the stages' own: when a stage is lost, it is opened again and gets what it had got before. Throws what
   * ended the last try when that takes longer than the route's `timeoutMs`.
   */
  async openCache (span: Span, capacity: number, signal?: AbortSignal): Promise<StageCache> {
    const open = async (until?: AbortSignal): Promise<StageCache[]> => {
      const caches: StageCache[] = []
      try {
        for (const stage of this.#stages)
          for (const part of partsOf(span, stage)) caches.push(await stage.openCache(part, capacity, until))
        return caches
      } catch (error) {
        await closeAll(caches)
        throw error
      }
    }
    return new RouteCache(capacity, await open(signal), open, this.#options)
  }
}

/** The part of a span that a stage computes: one, or none. */
function partsOf<Part extends Span> (span: Part, { span: { first, end } }: Stage): Part[] {
  const part = { ...span, first: Math.max(span.first, first), end: Math.min(span.end, end) }
  return part.first < part.end ? [part] : []
}

interface StagePass {
  readonly pass: ForwardPass
  /** The items that the stage computed. */
  readonly ids: ReadonlySet<string>
}

class RoutePass implements ForwardPass {
  readonly hidden: ReadonlyMap<string, readonly Tensor[]>
  readonly #passes: readonly StagePass[]

  constructor (passes: readonly StagePass[], hidden: ReadonlyMap<string, readonly Tensor[]>) {
    this.#passes = passes
    this.hidden = hidden
  }

  async backward (gradients: ReadonlyMap<string, OutputGradient>, signal?: AbortSignal): Promise<ReadonlyMap<string, readonly Tensor[]>> {
    const current = new Map(gradients)
    for (const { pass, ids } of this.#passes.toReversed()) {
      const inputs = await pass.backward(new Map([...current].filter(([id]) => ids.has(id))), signal)
      for (const [id, tensors] of inputs) current.set(id, { tokens: gradients.get(id)?.tokens ?? 0, tensors })
    }
    return new Map([...current].map(([id, { tensors }]) => [id, tensors]))
  }

  free (): void {
    for (const { pass } of this.#passes) pass.free()
  }
}

/** A cache over all stages of a route, with the released states that went into it: they are sent again as they were, never drawn anew. */
class RouteCache implements StageCache {
  readonly capacity: number
  readonly #open: (signal?: AbortSignal) => Promise<StageCache[]>
  readonly #options: RouteOptions
  /** What the caches hold, in order. */
  #history: CachedHiddenStates[] = []
  #length = 0
  /** Undefined while a stage is lost. */
  #caches: StageCache[] | undefined

  constructor (capacity: number, caches: StageCache[], open: (signal?: AbortSignal) => Promise<StageCache[]>, options: RouteOptions) {
    this.capacity = capacity
    this.#caches = caches
    this.#open = open
    this.#options = options
  }

  get length (): number { return this.#length }

  async forward (states: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]> {
    const { timeoutMs = Infinity, onWaiting = () => {} } = this.#options
    const timedOut = new AbortController()
    let last: unknown
    const giveUp = timeoutMs === Infinity
      ? undefined
      : setTimeout(() => { timedOut.abort(last ?? new ChannelTimeoutError('the servers did not answer', timeoutMs)) }, timeoutMs)
    const late = setTimeout(() => { onWaiting('the server has not answered yet') }, WAITING_AFTER_MS)
    const until = signal === undefined ? timedOut.signal : AbortSignal.any([signal, timedOut.signal])
    const backoff = new Backoff({ firstMs: FIRST_RETRY_MS, greatestMs: GREATEST_RETRY_MS })
    try {
      for (;;) {
        try {
          const outputs = await through(await this.#reopened(until), states, until)
          this.#history.push(states)
          this.#length += tokensOf(states.tensors)
          return outputs
        } catch (error) {
          await this.#lose()
          until.throwIfAborted()
          if (!isRetryable(error)) throw error
          clearTimeout(late)
          if (last === undefined) onWaiting(`the connection was lost (${(error as Error).message}); the text goes on when it is back`)
          last = error
          await backoff.wait(until)
        }
      }
    } catch (error) {
      until.throwIfAborted()
      throw error
    } finally {
      clearTimeout(giveUp)
      clearTimeout(late)
    }
  }

  rewind (position: number): void {
    checkPosition(position, this.#length)
    const kept: CachedHiddenStates[] = []
    let length = 0
    for (const { tensors, context } of this.#history) {
      if (length >= position) break
      const tokens = Math.min(tokensOf(tensors), position - length)
      kept.push({ tensors: tensors.map((part) => tensorRows(part, 0, tokens)), context })
      length += tokens
    }
    this.#history = kept
    this.#length = position
    for (const cache of this.#caches ?? []) cache.rewind(position)
  }

  async close (): Promise<void> {
    await this.#lose()
  }

  /** The caches, opened again and filled with what they held where a stage was lost. */
  async #reopened (signal: AbortSignal): Promise<readonly StageCache[]> {
    if (this.#caches !== undefined) return this.#caches
    const caches = await this.#open(signal)
    this.#caches = caches
    for (const states of merged(this.#history, this.#options.replayTokens ?? REPLAY_TOKENS)) await through(caches, states, signal)
    return caches
  }

  async #lose (): Promise<void> {
    const caches = this.#caches ?? []
    this.#caches = undefined
    await closeAll(caches)
  }
}

/** Computes hidden states through the caches of all stages, in order. */
async function through (
  caches: readonly StageCache[],
  { tensors, context }: CachedHiddenStates,
  signal: AbortSignal
): Promise<readonly Tensor[]> {
  let outputs = tensors
  for (const cache of caches) outputs = await cache.forward({ tensors: outputs, context }, signal)
  return outputs
}

/** Closes caches, of which some may be lost already. */
async function closeAll (caches: readonly StageCache[]): Promise<void> {
  await Promise.allSettled(caches.map(async (cache) => { await cache.close() }))
}

/** Joins states that follow one another, up to a number of tokens. A context's own states stay as they are: they come in one message. */
function merged (history: readonly CachedHiddenStates[], maxTokens: number): CachedHiddenStates[] {
  const groups: CachedHiddenStates[][] = []
  let tokens = 0
  for (const states of history) {
    const group = groups.at(-1)
    const count = tokensOf(states.tensors)
    if (group === undefined || tokens + count > maxTokens || !sameContext(group[0]?.context, states.context)) {
      groups.push([states])
      tokens = count
    } else {
      group.push(states)
      tokens += count
    }
  }
  return groups.map((group) => {
    const [first, ...others] = group as [CachedHiddenStates, ...CachedHiddenStates[]]
    if (others.length === 0) return first
    const tensors = first.tensors.map((_, part) => joinTensorRows(group.map((states) => states.tensors[part] as Tensor)))
    return { tensors, context: first.context }
  })
}

function sameContext (a: PromptContext | undefined, b: PromptContext | undefined): boolean {
  return a?.length === b?.length && a?.maskPosition === b?.maskPosition
}
