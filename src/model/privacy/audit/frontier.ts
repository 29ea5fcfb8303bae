import type { AttackFigures, Figure, PriorFigures } from './figures.ts'

/** One of several settings, with what it costs and what it tells. */
export interface Priced {
  /** In nats a held-out token; not finite where training came to nothing. */
  readonly loss: number
  /** The share of the text's information that leaks. */
  readonly leak: Figure
}

/** Standard errors that a leak is taken to be larger by when it is compared with a limit. */
const ERRORS = 2

/** What attacks on one setting came to. */
export interface SettingAttacks {
  /** On the hidden states of the tokens that are sent. */
  readonly hidden: AttackFigures
  /** On gradients, where these could be attacked. */
  readonly gradient?: AttackFigures | undefined
  /** Where words are withheld: what is told of them, and of all tokens. */
  readonly withheld?: {
    readonly tokens: number
    readonly figures: AttackFigures
    readonly whole: AttackFigures
    readonly prior: PriorFigures
    readonly wholePrior: PriorFigures
    /** All attacked tokens, sent or withheld. */
    readonly wholeTokens: number
  } | undefined
}

/**
 * Returns the leak of a setting: that of hidden states, or of gradients where that is larger, over all tokens. Where words are withheld,
 * what tells of them is the words around them, whatever tells of those.
 */
export function leakOf ({ hidden, gradient, withheld }: SettingAttacks): Figure {
  const larger = gradient !== undefined && gradient.leak.value > hidden.leak.value ? gradient.leak : undefined
  if (withheld === undefined) return larger ?? hidden.leak
  if (larger === undefined) return withheld.whole.leak
  const { tokens, wholeTokens, prior, wholePrior, figures } = withheld
  const all = wholeTokens * wholePrior.crossEntropy
  const sent = all - tokens * prior.crossEntropy
  return {
    value: 1 - ((1 - larger.value) * sent + tokens * figures.crossEntropy) / all,
    error: Math.max(withheld.whole.leak.error, larger.error * sent / all)
  }
}

/** Tells for each setting whether it is on the frontier: none of the others has a lower loss without a larger leak, or the reverse. */
export function onFrontier (settings: readonly Priced[]): boolean[] {
  return settings.map(({ loss, leak }) => Number.isFinite(loss) && !settings.some((other) =>
    other.loss <= loss && other.leak.value <= leak.value && (other.loss < loss || other.leak.value < leak.value)))
}

/** What a search for a setting found. */
export type Choice =
  /** The setting with the least loss of those that leak little enough, by its place. */
  | { readonly kind: 'found', readonly index: number }
  /** Some leak little enough, and all of these lose as much as a client alone, or more. */
  | { readonly kind: 'none below alone' }
  | { readonly kind: 'none leaks so little' }

/**
 * Chooses the setting with the least loss of those whose leak, with two standard errors, is at most `maxLeak` and whose loss is below that
 * of the client alone.
 */
export function chooseSetting (
  settings: readonly Priced[],
  { alone, maxLeak }: { readonly alone: number, readonly maxLeak: number }
): Choice {
  const tight = settings.map((setting, index) => ({ ...setting, index })).filter(({ leak }) => leak.value + ERRORS * leak.error <= maxLeak)
  if (tight.length === 0) return { kind: 'none leaks so little' }
  const worth = tight.filter(({ loss }) => loss < alone)
  if (worth.length === 0) return { kind: 'none below alone' }
  return { kind: 'found', index: worth.reduce((best, each) => each.loss < best.loss ? each : best).index }
}
