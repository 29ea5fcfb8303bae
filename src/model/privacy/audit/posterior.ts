/** What an attack came to at one token. */
export interface TokenOutcome {
  /** Whether the likeliest candidate by what was released alone is the token. */
  readonly alone: boolean
  /** Whether the likeliest one is with the prior as well. */
  readonly withPrior: boolean
  /** The logarithm of the probability of the token, by what was released and the prior. */
  readonly logPosterior: number
}

/** What a prior alone says of one token. */
export interface PriorOutcome {
  /** Whether the likeliest token is the one. */
  readonly recovered: boolean
  /** The logarithm of the token's probability. */
  readonly logPrior: number
}

/** Candidates for one token, with how likely what was released is under each, and how likely each is before. */
export interface Candidates {
  /** The token that it is. It is among the candidates. */
  readonly truth: number
  /** Their ids; all tokens of the vocabulary, in order, where left out. */
  readonly ids?: ArrayLike<number> | undefined
  /** By candidate, up to a constant. */
  readonly logLikelihoods: ArrayLike<number>
  /** By token id. */
  readonly logPriors: ArrayLike<number>
}

/** Looks up what a prior says of a token. */
export function priorOutcome (logPriors: ArrayLike<number>, truth: number): PriorOutcome {
  let best = 0
  for (let id = 1; id < logPriors.length; id++) if (logPriors[id]! > logPriors[best]!) best = id
  return { recovered: best === truth, logPrior: logPriors[truth]! }
}

/**
 * Decides for the likeliest candidates, and computes the posterior of the token by Bayes' rule. Tokens that are no candidates count as
 * being as likely by what was released as the least likely candidate: they are none because they are less.
 */
export function tokenOutcome ({ truth, ids, logLikelihoods, logPriors }: Candidates): TokenOutcome {
  const count = logLikelihoods.length
  const idOf = (candidate: number): number => ids === undefined ? candidate : ids[candidate]!
  const weight = (candidate: number): number => logLikelihoods[candidate]! + logPriors[idOf(candidate)]!
  let [alone, withPrior, peak, own] = [0, 0, -Infinity, -Infinity]
  for (let candidate = 0; candidate < count; candidate++) {
    if (logLikelihoods[candidate]! > logLikelihoods[alone]!) alone = candidate
    const weighed = weight(candidate)
    if (weighed > peak) [peak, withPrior] = [weighed, candidate]
    if (idOf(candidate) === truth) own = weighed
  }
  let sum = ids === undefined ? 0 : restOf(ids, { logLikelihoods, logPriors }, peak)
  for (let candidate = 0; candidate < count; candidate++) sum += Math.exp(weight(candidate) - peak)
  return { alone: idOf(alone) === truth, withPrior: idOf(withPrior) === truth, logPosterior: own - peak - Math.log(sum) }
}

/** Computes the weight of all tokens that are no candidates, over e to the power of the peak. */
function restOf (ids: ArrayLike<number>, { logLikelihoods, logPriors }: Pick<Candidates, 'logLikelihoods' | 'logPriors'>, peak: number): number {
  let [known, least] = [0, Infinity]
  for (let candidate = 0; candidate < ids.length; candidate++) {
    known += Math.exp(logPriors[ids[candidate]!]!)
    least = Math.min(least, logLikelihoods[candidate]!)
  }
  return Math.max(0, 1 - known) * Math.exp(least - peak)
}
