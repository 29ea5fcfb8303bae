import { likeliest } from './sampling.ts'

export interface TokenLogProbability {
  readonly id: number
  /** The natural logarithm of the token's probability. */
  readonly logProbability: number
}

/** How likely the model held a token, and what it held likeliest. */
export interface LogProbabilities {
  /** The natural logarithm of the probability of the token that was chosen. */
  readonly chosen: number
  /** The likeliest tokens, the likeliest first. */
  readonly top: readonly TokenLogProbability[]
}

/**
 * Computes the logarithms of the probabilities of the token `id` and of the `count` likeliest tokens: the logarithm of the softmax of the
 * model's own logits [vocabulary], before temperature, penalties and biases.
 */
export function logProbabilities (logits: Float32Array, id: number, count: number): LogProbabilities {
  let peak = -Infinity
  for (const logit of logits) peak = Math.max(peak, logit)
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - peak)
  const logOf = (token: number): number => logits[token]! - peak - Math.log(sum)
  const top = count === 0 ? [] : [...likeliest(logits, Math.min(count, logits.length))]
  return {
    chosen: logOf(id),
    top: top.map((other) => ({ id: other, logProbability: logOf(other) }))
  }
}
