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
  /** Opens a text of at most `capacity` tokens that is read on from any of its positions. The caller frees it. */
  open (capacity: number): Promise<Reading>
}

/** A text as a prior reads it, which may be read on in several ways. */
export interface Reading {
  /**
   * Forgets the tokens from `position` on and reads these in their place. Returns the logarithms of the probabilities [vocabulary] of what
   * follows each of them.
   */
  read (position: number, ids: readonly number[]): Promise<Float32Array[]>
  free (): void
}
