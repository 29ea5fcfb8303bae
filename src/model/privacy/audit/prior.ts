/** What whoever receives hidden states knows of text before: how likely each token is after others. */
export interface Prior {
  /** Says what it is, for people. */
  readonly about: string
  readonly kind: 'ngram' | 'model'
  /**
   * Computes the logarithms of the probabilities of each next token, after each token of a sequence but the last: float32 [length - 1,
   * vocabulary] as one array a position, in order.
   */
  next (sequence: readonly number[]): AsyncIterable<Float32Array>
}
