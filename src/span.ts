/** Consecutive blocks `[first, end)`, by their numbers in the whole model. */
export interface Span {
  readonly first: number
  readonly end: number
}
