/** Consecutive blocks `[first, end)`, by their numbers in the whole model. */
export interface Span {
  readonly first: number
  readonly end: number
}

/** Writes a span as options take it: `4-12` stands for the blocks 4 to 11. */
export function spanText ({ first, end }: Span): string {
  return `${first}-${end}`
}

/** Names the blocks of spans for people, in the form of `spanText`: `blocks 4-12 and 14-16`. */
export function blocksText (spans: readonly Span[]): string {
  return `blocks ${spans.map(spanText).join(' and ')}`
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

/** Returns whether a span holds all blocks of another one. */
export function containsSpan (outer: Span, { first, end }: Span): boolean {
  return outer.first <= first && end <= outer.end
}

/** Returns the blocks of a span that are in none of these spans, as the fewest spans, in order. */
export function uncovered ({ first, end }: Span, spans: readonly Span[]): Span[] {
  const gaps: Span[] = []
  let position = first
  for (const span of spans.toSorted((a, b) => a.first - b.first)) {
    if (position >= end) break
    if (span.end <= position || span.end <= span.first) continue
    if (span.first > position) gaps.push({ first: position, end: Math.min(span.first, end) })
    position = span.end
  }
  if (position < end) gaps.push({ first: position, end })
  return gaps
}
