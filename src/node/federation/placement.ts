import type { Span } from '../../span.ts'
import type { ServerMemory } from './block-memory.ts'
import { coverageOf } from './coverage.ts'

/** The blocks that servers serve together, and the memory that they take. */
export interface PlacementScope extends ServerMemory {
  readonly middle: Span
}

/** A server that serves some blocks. */
export interface PlacedServer {
  readonly id: string
  readonly span: Span
  /** Device memory that it may use. */
  readonly memoryBytes: number
}

/** A server that is to serve other blocks. */
export interface Move {
  readonly id: string
  readonly from: Span
  readonly to: Span
}

/**
 * Chooses the blocks of a server that joins: the consecutive ones within its memory that raise the weakest coverage of the middle most;
 * among equals those that raise the next weakest most, and so on, and then the first. Returns undefined where not one block fits.
 */
export function placeServer (scope: PlacementScope, memoryBytes: number, others: Iterable<Span>): Span | undefined {
  const coverage = coverageOf(scope.middle, others)
  return bestSpan(scope, memoryBytes, coverage)
}

/**
 * Moves servers where a block of the middle has none. Returns the moves in order, none where every block is served or where no moves can
 * change that. A single move is tried first, and again while it helps: it takes a server from blocks that others serve too, so that no
 * block loses its last server. Where single moves do not help although the memory of all servers is enough, the servers are laid out anew
 * side by side in their present order, which moves each at most once.
 */
export function rebalance (scope: PlacementScope, servers: readonly PlacedServer[]): Move[] {
  const { middle } = scope
  const moves: Move[] = []
  let placed = servers
  while (coverageOf(middle, placed.map(({ span }) => span)).includes(0)) {
    const move = bestMove(scope, placed)
    if (move === undefined) {
      const laidOut = layOut(scope, placed)
      return laidOut === undefined ? moves : [...moves, ...laidOut]
    }
    moves.push(move)
    placed = placed.map((server) => server.id === move.id ? { ...server, span: move.to } : server)
  }
  return moves
}

/** The move that leaves the fewest blocks without a server; undefined where none leaves fewer than there are. */
function bestMove (scope: PlacementScope, servers: readonly PlacedServer[]): Move | undefined {
  const { middle } = scope
  const holes = (coverage: readonly number[]): number => coverage.filter((count) => count === 0).length
  const all = coverageOf(middle, servers.map(({ span }) => span))
  let best: Move | undefined
  let fewest = holes(all)
  for (const { id, span, memoryBytes } of servers) {
    const without = all.map((count, index) => count - Number(contains(span, middle.first + index)))
    const to = bestSpan(scope, memoryBytes, without)
    if (to === undefined) continue
    const after = holes(without.map((count, index) => count + Number(contains(to, middle.first + index))))
    if (after >= fewest) continue
    fewest = after
    best = { id, from: span, to }
  }
  return best
}

/** Places servers side by side, in the order of their present spans; undefined where they cannot serve every block. */
function layOut (scope: PlacementScope, servers: readonly PlacedServer[]): Move[] | undefined {
  const { middle } = scope
  const moves: Move[] = []
  let next = middle.first
  for (const { id, span, memoryBytes } of servers.toSorted((a, b) => a.span.first - b.span.first || a.span.end - b.span.end)) {
    if (next === middle.end) break
    const to = fittingSpan(scope, next, memoryBytes)
    if (to === undefined) continue
    next = to.end
    if (to.first !== span.first || to.end !== span.end) moves.push({ id, from: span, to })
  }
  return next === middle.end ? moves : undefined
}

/** The span whose addition to a coverage is best; `coverage` is in the order of the middle's blocks. */
function bestSpan (scope: PlacementScope, memoryBytes: number, coverage: readonly number[]): Span | undefined {
  const { middle } = scope
  let best: { readonly span: Span, readonly gains: ReadonlyMap<number, number> } | undefined
  const levels = [...new Set(coverage)].toSorted((a, b) => a - b)
  for (let first = middle.first; first < middle.end; first++) {
    const span = fittingSpan(scope, first, memoryBytes)
    if (span === undefined) continue
    const gains = new Map<number, number>()
    for (let block = span.first; block < span.end; block++) {
      const count = coverage[block - middle.first]!
      gains.set(count, (gains.get(count) ?? 0) + 1)
    }
    if (best === undefined || isBetter(levels, gains, best.gains)) best = { span, gains }
  }
  return best?.span
}

/** Whether a span that serves so many blocks of each coverage raises the weakest ones more than another does. */
function isBetter (levels: readonly number[], gains: ReadonlyMap<number, number>, than: ReadonlyMap<number, number>): boolean {
  const level = levels.find((level) => (gains.get(level) ?? 0) !== (than.get(level) ?? 0))
  return level !== undefined && (gains.get(level) ?? 0) > (than.get(level) ?? 0)
}

/** The most blocks from one on that fit into a server's memory; undefined where the first does not. */
function fittingSpan ({ middle, blockBytes, fixedBytes }: PlacementScope, first: number, memoryBytes: number): Span | undefined {
  let left = memoryBytes - fixedBytes
  let end = first
  while (end < middle.end && blockBytes[end - middle.first]! <= left) left -= blockBytes[end++ - middle.first]!
  return end === first ? undefined : { first, end }
}

function contains ({ first, end }: Span, block: number): boolean {
  return block >= first && block < end
}
