/** Consecutive blocks `[first, end)`, by their numbers in the whole model. */
export interface Span {
  readonly first: number
  readonly end: number
}

/** Writes a span as options take it: `4-12` stands for the blocks 4 to 11. */
export function spanText ({ first, end }: Span): string {
  return `${first}-${end}`
}

/** Reads a span that `spanText` wrote. Returns undefined for other text, and for a span that is empty or reversed. */
export function parseSpan (text: string): Span | undefined {
  const [, first, end] = /^(\d{1,4})-(\d{1,4})$/.exec(text.trim()) ?? []
  if (first === undefined || end === undefined || Number(first) >= Number(end)) return undefined
  return { first: Number(first), end: Number(end) }
}

/** Returns the blocks that two spans share, or undefined where they share none. */
export function commonSpan (a: Span, b: Span): Span | undefined {
  const common = { first: Math.max(a.first, b.first), end: Math.min(a.end, b.end) }
  return common.first < common.end ? common : undefined
}
