import { SeededRandom } from '../../random.ts'
import type { PriorOutcome, TokenOutcome } from './posterior.ts'

/** A figure with its standard error. */
export interface Figure {
  readonly value: number
  readonly error: number
}

/** What an attack came to over all attacked tokens. */
export interface AttackFigures {
  /** The share of tokens recovered from what was released alone. */
  readonly alone: Figure
  /** The share recovered with the prior. */
  readonly withPrior: Figure
  /** The share recovered with the prior among the hard tokens; null where there are none. */
  readonly hard: Figure | null
  /** The share of the text's information that leaks: 1 less the cross-entropy of the posterior over that of the prior. */
  readonly leak: Figure
  /** Of the posterior, in nats a token. */
  readonly crossEntropy: number
}

/** What the prior alone comes to. */
export interface PriorFigures {
  readonly recovered: Figure
  readonly hard: Figure | null
  /** Tokens to which the prior gives less than `HARD_PROBABILITY`. */
  readonly hardTokens: number
  readonly crossEntropy: number
}

/** A token to which the prior gives less than this is one that nobody would guess. */
export const HARD_PROBABILITY = 0.05

/** Draws of a bootstrap: its standard error is within 4 % of its limit then. */
const BOOTSTRAP_DRAWS = 300

/** The standard error of a share is at least that of half an observation: none of a hundred is not none of all. */
export function shareOf (hits: number, count: number): Figure {
  if (count === 0) return { value: 0, error: 1 }
  const smoothed = (hits + 0.5) / (count + 1)
  return { value: hits / count, error: Math.sqrt(smoothed * (1 - smoothed) / count) }
}

/** Sums up what a prior says of the attacked tokens. */
export function priorFigures (outcomes: readonly PriorOutcome[]): PriorFigures {
  const hard = outcomes.filter(isHard)
  return {
    recovered: shareOf(outcomes.filter(({ recovered }) => recovered).length, outcomes.length),
    hard: hard.length === 0 ? null : shareOf(hard.filter(({ recovered }) => recovered).length, hard.length),
    hardTokens: hard.length,
    crossEntropy: meanOf(outcomes.map(({ logPrior }) => -logPrior))
  }
}

/** Sums up an attack. Outcomes of the prior and of the attack are of the same tokens, in the same order. */
export function attackFigures (priors: readonly PriorOutcome[], outcomes: readonly TokenOutcome[]): AttackFigures {
  const hard = outcomes.filter((_, i) => isHard(priors[i]!))
  const [before, after] = [priors.map(({ logPrior }) => -logPrior), outcomes.map(({ logPosterior }) => -logPosterior)]
  return {
    alone: shareOf(outcomes.filter(({ alone }) => alone).length, outcomes.length),
    withPrior: shareOf(outcomes.filter(({ withPrior }) => withPrior).length, outcomes.length),
    hard: hard.length === 0 ? null : shareOf(hard.filter(({ withPrior }) => withPrior).length, hard.length),
    leak: { value: leakOf(meanOf(before), meanOf(after)), error: bootstrapError(before, after) },
    crossEntropy: meanOf(after)
  }
}

function isHard ({ logPrior }: PriorOutcome): boolean {
  return logPrior < Math.log(HARD_PROBABILITY)
}

function leakOf (before: number, after: number): number {
  return before <= 0 ? 0 : 1 - after / before
}

/** Computes the standard deviation of the leak over draws of as many tokens, with replacement. */
function bootstrapError (before: readonly number[], after: readonly number[]): number {
  const random = new SeededRandom('audit/bootstrap')
  const leaks = Array.from({ length: BOOTSTRAP_DRAWS }, () => {
    let [first, second] = [0, 0]
    for (let i = 0; i < before.length; i++) {
      const drawn = random.below(before.length)
      first += before[drawn]!
      second += after[drawn]!
    }
    return leakOf(first, second)
  })
  const mean = meanOf(leaks)
  return Math.sqrt(meanOf(leaks.map((leak) => (leak - mean) ** 2)))
}

function meanOf (values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length
}
