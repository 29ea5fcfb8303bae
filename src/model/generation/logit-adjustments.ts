/** What is added to the logits before a token is chosen, as OpenAI's API and vLLM define it. */
export interface LogitAdjustments {
  /** What is added to the logit of a token, by its id. */
  readonly logitBias?: ReadonlyMap<number, number>
  /** What is subtracted from the logit of each token that was generated before. */
  readonly presencePenalty?: number
  /** What is subtracted from the logit of a token for each time that it was generated before. */
  readonly frequencyPenalty?: number
}

/** Returns whether these adjustments change any logit. */
export function changesLogits ({ logitBias, presencePenalty = 0, frequencyPenalty = 0 }: LogitAdjustments): boolean {
  return (logitBias?.size ?? 0) > 0 || presencePenalty !== 0 || frequencyPenalty !== 0
}

/**
 * Returns a copy of the logits [vocabulary] with the adjustments: a token that is among those generated before `count` times has
 * `logit + bias - count · frequencyPenalty - presencePenalty`, and every other one `logit + bias`. A bias for a token that is not in the
 * vocabulary does nothing.
 */
export function adjustLogits (
  logits: Float32Array,
  generated: readonly number[],
  { logitBias, presencePenalty = 0, frequencyPenalty = 0 }: LogitAdjustments
): Float32Array {
  const adjusted = logits.slice()
  for (const [id, bias] of logitBias ?? []) {
    if (id < adjusted.length) adjusted[id]! += bias
  }
  if (presencePenalty === 0 && frequencyPenalty === 0) return adjusted
  const counts = new Map<number, number>()
  for (const id of generated) counts.set(id, (counts.get(id) ?? 0) + 1)
  for (const [id, count] of counts) adjusted[id]! -= count * frequencyPenalty + presencePenalty
  return adjusted
}
