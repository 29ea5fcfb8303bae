/** Which tokens may come next in one text. */
export interface TokenConstraint {
  /** Returns which tokens may come next: bit `id % 32` of word `id / 32` is set for those that may. */
  allowed (): Promise<Int32Array>
  /** Goes on after a token, which is one that may come. */
  accept (id: number): void
  /** Ends the text. */
  close (): void
}

/** Returns a copy of the logits [vocabulary] in which no token but the allowed ones can be chosen. */
export function onlyAllowed (logits: Float32Array, allowed: Int32Array): Float32Array {
  return logits.map((logit, id) => (allowed[id >>> 5]! >>> (id & 31)) & 1 ? logit : -Infinity)
}
