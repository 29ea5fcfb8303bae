import type { Model } from '../../../model/families/index.ts'
import type { MiddleMap } from '../../../model/generation/speculation/middle-map.ts'
import { RouteStatistics, type LegStatistics } from '../../middle/route-statistics.ts'
import type { GenerationRouteOptions } from '../server-route.ts'
import type { KeptSequence } from './sequence-pool.ts'
import { Sequence, type GrowingText, type SequenceComponents, type SequenceSettings } from './sequence.ts'
import { WithheldSequence, type SequenceWithholding } from './withheld-sequence.ts'

/** A client's end of the model, and how routes are made. */
export interface TextSequenceComponents extends Omit<SequenceComponents, 'route'> {
  /** Where words of the text are withheld. */
  readonly withholding?: SequenceWithholding | undefined
  readonly routeWith: (options: GenerationRouteOptions) => SequenceComponents['route']
}

/** What a route is chosen by. */
export type RouteSettings = Pick<GenerationRouteOptions, 'timeoutMs' | 'handOver' | 'isBatch'>

/** Hears what a route waits for. */
interface RouteListener {
  onWaiting: (reason: string) => void
}

/** A sequence of which several texts may be made, one after another, with what each of them hears of its route. */
export class TextSequence implements KeptSequence {
  readonly sequence: GrowingText
  readonly #settings: RouteSettings
  readonly #statistics: RouteStatistics
  readonly #listener: RouteListener

  private constructor (sequence: GrowingText, settings: RouteSettings, statistics: RouteStatistics, listener: RouteListener) {
    this.sequence = sequence
    this.#settings = settings
    this.#statistics = statistics
    this.#listener = listener
  }

  /** Opens a sequence over a route that `routeWith` makes. The caller closes it. */
  static async open (
    { routeWith, withholding, ...given }: TextSequenceComponents,
    settings: SequenceSettings,
    { onWaiting, ...route }: RouteSettings & { readonly onWaiting: (reason: string) => void },
    signal: AbortSignal
  ): Promise<TextSequence> {
    const statistics = new RouteStatistics()
    const listener = { onWaiting }
    const stages = routeWith({ ...route, statistics, onWaiting: (reason) => { listener.onWaiting(reason) } })
    const components = { ...given, route: stages }
    const sequence = withholding === undefined
      ? await Sequence.open(components, settings, signal)
      : await WithheldSequence.open(components, settings, withholding, signal)
    return new TextSequence(sequence, route, statistics, listener)
  }

  get released (): GrowingText['released'] { return this.sequence.released }

  /** Begins another text, which hears what the route waits for. */
  begin (onWaiting: (reason: string) => void, map: MiddleMap | undefined): void {
    this.#listener.onWaiting = onWaiting
    this.sequence.useMap(map)
  }

  /** Returns whether its route is one with these settings. */
  isLike ({ timeoutMs, handOver, isBatch }: RouteSettings): boolean {
    const own = this.#settings
    return own.timeoutMs === timeoutMs && own.handOver === handOver && own.isBatch === isBatch
  }

  /** What each server did so far. */
  get legs (): readonly LegStatistics[] { return this.#statistics.legs }

  /** Milliseconds that the network took so far. */
  get networkMs (): number { return this.#statistics.networkMs }

  async close (): Promise<void> {
    await this.sequence.close()
  }
}

/** Returns what each server did besides what it had done before. */
export function legsSince (legs: readonly LegStatistics[], before: readonly LegStatistics[]): LegStatistics[] {
  return legs.map((leg) => {
    const { server, span: { first, end } } = leg
    const earlier = before.find((other) => other.server === server && other.span.first === first && other.span.end === end)
    if (earlier === undefined) return leg
    return {
      ...leg,
      tokens: leg.tokens - earlier.tokens,
      replayedTokens: leg.replayedTokens - earlier.replayedTokens,
      answers: leg.answers - earlier.answers,
      ms: leg.ms - earlier.ms,
      sentBytes: leg.sentBytes - earlier.sentBytes,
      receivedBytes: leg.receivedBytes - earlier.receivedBytes
    }
  })
}

/**
 * Returns whether a token's hidden state follows from the token and those before it. In a model that reads prompts in both directions it
 * depends on the whole prompt, and where the rotary base grows, on how many tokens come at once: states of another text are of no use.
 */
export function hasCausalStates ({ prompts, rotary }: Model): boolean {
  return prompts === undefined && rotary.growth === undefined
}

/**
 * Returns whether a text of this model, which has causal states, can go on in a sequence of `length` tokens of which the first `common` are
 * the prompt's. A block with a window forgets what is before it: such a sequence only grows.
 */
export function canResume ({ windows }: Model, prompt: readonly number[], length: number, common: number): boolean {
  if (windows.some((window) => window !== null)) return common === length && common < prompt.length
  // Where most of it is another text, the sequence is better kept for that one.
  return length - common <= common
}
