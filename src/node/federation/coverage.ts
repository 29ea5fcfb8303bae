import { commonSpan, type Span } from '../../span.ts'

/** Counts the servers of each block of the middle, its first block first. */
export function coverageOf (middle: Span, spans: Iterable<Span>): number[] {
  const counts = Array.from({ length: middle.end - middle.first }, () => 0)
  for (const span of spans) {
    const common = commonSpan(span, middle)
    if (common === undefined) continue
    for (let block = common.first; block < common.end; block++) counts[block - middle.first]! += 1
  }
  return counts
}

/** Consecutive blocks that as many servers serve. */
export interface CoveredSpan {
  readonly blocks: Span
  readonly servers: number
}

/** Cuts the middle where the number of servers changes. */
export function coveredSpans (middle: Span, spans: Iterable<Span>): CoveredSpan[] {
  const runs: CoveredSpan[] = []
  for (const [index, servers] of coverageOf(middle, spans).entries()) {
    const block = middle.first + index
    const last = runs.at(-1)
    if (last?.servers === servers) runs[runs.length - 1] = { blocks: { first: last.blocks.first, end: block + 1 }, servers }
    else runs.push({ blocks: { first: block, end: block + 1 }, servers })
  }
  return runs
}
