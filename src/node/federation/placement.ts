import { commonSpan, containsSpan, uncovered, type Span } from '../../span.ts'
import type { ServerMemory } from './block-memory.ts'
import { coverageOf } from './coverage.ts'

/** What a server may fill with blocks. */
export interface ServerRoom extends ServerMemory {
  /** Device memory that it may use. */
  readonly memoryBytes: number
}

/** A server that serves some blocks. */
export interface PlacedServer {
  readonly id: string
  readonly span: Span
  /** Undefined for a server that stays where it is. */
  readonly room: ServerRoom | undefined
}

/** The blocks that are to be served. */
export interface PlacementScope {
  /** The blocks that servers serve together. */
  readonly middle: Span
  /** Those of them that no client may compute itself, which may be none: while one of them has no server, nobody is served. */
  readonly core: Span
}

/** A server that is to serve other blocks. */
export interface Move {
  readonly id: string
  readonly from: Span
  readonly to: Span
  /** Whether a block may lose its last server by it, which is done only while nobody is served anyway. */
  readonly opens: boolean
}

/**
 * Chooses the blocks of a server that joins: the consecutive ones within its memory that raise the weakest coverage of the middle most;
 * among equals those that raise the next weakest most, and so on, and then the first. Returns undefined where not one block fits.
 */
export function placeServer (middle: Span, room: ServerRoom, others: Iterable<Span>): Span | undefined {
  return bestSpan(middle, room, coverageOf(middle, others))
}

/**
 * Moves servers where a block of the middle has none. Returns the moves in order, none where every block is served or where no moves can
 * change that. A single move is tried first, and again while it leaves fewer blocks without a server: while some client can be served, it
 * takes a server from blocks that others serve too, so that no block loses its last server. Where single moves do not help although the
 * memory of all servers is enough, and nobody is served anyway, those that move are laid out anew side by side in their present order, and
 * each moves at most once.
 */
export function rebalance (scope: PlacementScope, servers: readonly PlacedServer[]): Move[] {
  const { middle } = scope
  const moves: Move[] = []
  let placed = servers
  while (uncovered(middle, placed.map(({ span }) => span)).length > 0) {
    const isAnybodyServed = isServed(scope, placed)
    const move = bestMove(scope, placed, !isAnybodyServed)
    if (move === undefined) return isAnybodyServed ? moves : [...moves, ...layOut(middle, placed) ?? []]
    moves.push(move)
    placed = placed.map((server) => server.id === move.id ? { ...server, span: move.to } : server)
  }
  return moves
}

/**
 * Whether a server may be away from its blocks: others serve each of them too, or a block that every client needs has no server, so that
 * nobody is served anyway.
 */
export function mayLeave (scope: PlacementScope, servers: readonly PlacedServer[], id: string): boolean {
  const server = servers.find((other) => other.id === id)
  if (server === undefined || !isServed(scope, servers)) return true
  const own = commonSpan(server.span, scope.middle)
  return own === undefined || uncovered(own, servers.filter((other) => other.id !== id).map(({ span }) => span)).length === 0
}

/** Whether every block that all clients need has a server. */
export function isServed ({ core }: PlacementScope, servers: readonly PlacedServer[]): boolean {
  return uncovered(core, servers.map(({ span }) => span)).length === 0
}

/**
 * The move that leaves the fewest blocks without a server, and unless it `mayOpen` blocks none that has one now; undefined where none
 * leaves fewer than there are.
 */
function bestMove (scope: PlacementScope, servers: readonly PlacedServer[], mayOpen: boolean): Move | undefined {
  const { middle } = scope
  const all = coverageOf(middle, servers.map(({ span }) => span))
  let best: Move | undefined
  let fewest = all.filter((count) => count === 0).length
  for (const { id, span, room } of servers) {
    if (room === undefined || !mayLeave(scope, servers, id)) continue
    const without = all.map((count, index) => count - Number(contains(span, middle.first + index)))
    const to = bestSpan(middle, room, without)
    if (to === undefined) continue
    const after = without.map((count, index) => count + Number(contains(to, middle.first + index)))
    const opens = after.some((count, index) => count === 0 && all[index]! > 0)
    if (opens && !mayOpen) continue
    const holes = after.filter((count) => count === 0).length
    if (holes >= fewest) continue
    fewest = holes
    best = { id, from: span, to, opens }
  }
  return best
}

/**
 * Places the servers that move side by side, in the order of their present spans, where those that stay leave room; undefined where they
 * cannot serve every block.
 */
function layOut (middle: Span, servers: readonly PlacedServer[]): Move[] | undefined {
  const fixed = servers.filter(({ room }) => room === undefined).map(({ span }) => span)
  const nextFrom = (block: number): number => uncovered({ first: block, end: middle.end }, fixed)[0]?.first ?? middle.end
  const moves: Move[] = []
  let next = nextFrom(middle.first)
  for (const { id, span, room } of servers.toSorted((a, b) => a.span.first - b.span.first || a.span.end - b.span.end)) {
    if (next === middle.end) break
    const to = room === undefined ? undefined : fittingSpan(middle, room, next)
    if (to === undefined) continue
    next = nextFrom(to.end)
    if (to.first !== span.first || to.end !== span.end) moves.push({ id, from: span, to, opens: true })
  }
  return next === middle.end ? moves : undefined
}

/** The span whose addition to a coverage is best; `coverage` is in the order of the middle's blocks. */
function bestSpan (middle: Span, room: ServerRoom, coverage: readonly number[]): Span | undefined {
  let best: { readonly span: Span, readonly gains: ReadonlyMap<number, number> } | undefined
  const levels = [...new Set(coverage)].toSorted((a, b) => a - b)
  for (let first = middle.first; first < middle.end; first++) {
    const span = fittingSpan(middle, room, first)
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

/** Whether a server's memory is enough for a span of the middle. */
export function fits (middle: Span, room: ServerRoom, { first, end }: Span): boolean {
  return containsSpan(middle, { first, end }) && (fittingSpan(middle, room, first)?.end ?? first) >= end
}

/** The most blocks from one on that fit into a server's memory; undefined where the first does not. */
function fittingSpan (middle: Span, { blockBytes, fixedBytes, memoryBytes }: ServerRoom, first: number): Span | undefined {
  let left = memoryBytes - fixedBytes
  let end = first
  while (end < middle.end && blockBytes[end - middle.first]! <= left) left -= blockBytes[end++ - middle.first]!
  return end === first ? undefined : { first, end }
}

function contains ({ first, end }: Span, block: number): boolean {
  return block >= first && block < end
}
