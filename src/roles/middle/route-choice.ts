import { createHash } from 'node:crypto'
import { uncovered, type Span } from '../../span.ts'
import type { ServerLoad } from '../context.ts'

/** A server that may carry a part of a route. */
export interface RouteCandidate {
  /** Names the server; unique among the candidates. */
  readonly id: string
  /** The blocks that it serves; undefined where it has not said so, which is taken for the whole middle. */
  readonly span: Span | undefined
  /** Milliseconds of a message there and back; undefined while nothing was measured. */
  readonly roundTripMs: number | undefined
  /** What it said of itself; undefined while nothing was heard. */
  readonly load: ServerLoad | undefined
  /**
   * Whether it failed a short time ago, cannot be reached now or is about to serve other blocks: it is chosen only for blocks that no other
   * candidate serves.
   */
  readonly isDoubtful: boolean
}

/** A part of a route: consecutive blocks on one server. */
export interface RouteLeg {
  readonly server: string
  readonly span: Span
  readonly isDoubtful: boolean
}

export interface RouteChoice {
  /** The servers in order. */
  readonly legs: readonly RouteLeg[]
  /** The time that one token is expected to take over all of them. */
  readonly expectedMs: number
}

/** What a message there and back is taken to need where nothing was measured: a server on the same continent. */
const UNMEASURED_ROUND_TRIP_MS = 50

/** What sealing, opening and checking one answer take besides the network: routes of fewer servers win ties. */
const LEG_MS = 1

/** What one block is taken to need for a token where no server has measured anything. */
const UNMEASURED_BLOCK_MS = 5

/**
 * What one of many tokens in a run takes, of the time of a token alone, where only the latter was measured: 0.45 ms of 9 ms (hidden 512,
 * four blocks, fp32, two threads of a CPU).
 */
const BATCHED_TOKEN_SHARE = 0.05

/** Larger numbers of a peer count as this one: eleven days in milliseconds, and sums of it are exact to a microsecond. */
const MOST = 1e9

/**
 * By how much the expected times of servers may differ and still count as equal. What is known of load and latency is some seconds old, and
 * clients that all took the very fastest server would all go to the same one.
 */
const SPREAD = 0.1

/**
 * Chooses the servers that take a token through a span in the least expected time: for each server a message there and back, the tokens
 * that wait before it, and its blocks at its speed. Spans of candidates may overlap, and a leg may be a part of its server's span. Of
 * candidates whose times differ by less than a tenth, the seed decides, so that clients with different seeds share them. Returns undefined
 * where the candidates do not cover the span: `unserved` says where. It is a pure function, and the order of the candidates makes no
 * difference.
 */
export function chooseRoute (candidates: readonly RouteCandidate[], span: Span, seed: string): RouteChoice | undefined {
  const servers = costed(candidates, span, seed)
  const cuts = cutsOf(servers, span)
  // The best way to each cut: the fewest blocks on doubtful servers, then the least time.
  const best: Array<Way | undefined> = [{ doubtful: 0, ms: 0, leg: undefined, from: 0 }]
  for (let to = 1; to < cuts.length; to++) {
    for (const server of servers) {
      if (server.end < cuts[to]! || server.first >= cuts[to]!) continue
      for (let from = to - 1; from >= 0 && cuts[from]! >= server.first; from--) {
        const before = best[from]
        if (before === undefined) continue
        const leg = { server: server.id, span: { first: cuts[from]!, end: cuts[to]! }, isDoubtful: server.isDoubtful }
        const blocks = leg.span.end - leg.span.first
        const way = {
          doubtful: before.doubtful + (server.isDoubtful ? blocks : 0),
          ms: before.ms + server.fixedMs + server.blockMs * blocks,
          leg,
          from
        }
        if (isBetter(way, best[to])) best[to] = way
      }
    }
  }
  const last = best[cuts.length - 1]
  if (last === undefined) return undefined
  const legs: RouteLeg[] = []
  for (let way = last; way.leg !== undefined; way = best[way.from]!) legs.unshift(way.leg)
  return { legs, expectedMs: last.ms }
}

/** Returns the blocks of a span that none of these candidates serves, in order. */
export function unserved (candidates: ReadonlyArray<Pick<RouteCandidate, 'span'>>, middle: Span): Span[] {
  return uncovered(middle, candidates.map(({ span = middle }) => span))
}

interface Way {
  /** Blocks on doubtful servers. */
  readonly doubtful: number
  readonly ms: number
  readonly leg: RouteLeg | undefined
  /** The index of the cut where the leg begins. */
  readonly from: number
}

function isBetter (way: Way, other: Way | undefined): boolean {
  return other === undefined || way.doubtful < other.doubtful || (way.doubtful === other.doubtful && way.ms < other.ms)
}

/** A candidate with its times: a leg takes `fixedMs`, and `blockMs` for each of its blocks. */
interface CostedServer extends Span {
  readonly id: string
  readonly isDoubtful: boolean
  readonly fixedMs: number
  readonly blockMs: number
}

/** Returns the candidates within a span with their times, by their ids. */
function costed (candidates: readonly RouteCandidate[], middle: Span, seed: string): CostedServer[] {
  const usual = usualBlockMs(candidates, middle)
  return candidates.map(({ id, span = middle, roundTripMs, load, isDoubtful }) => {
    const aloneMs = decodeMs(load) ?? usual * (span.end - span.first)
    const batchedMs = perToken(load?.prefillTokensPerSecond) ?? aloneMs * BATCHED_TOKEN_SHARE
    // A session is counted as one token in the same run; what else waits comes before.
    const waitingMs = (counted(load?.queuedTokens) + counted(load?.sessions)) * batchedMs
    const spread = 1 + SPREAD * share(`${seed}/${id}`)
    return {
      id,
      isDoubtful,
      first: Math.max(span.first, middle.first),
      end: Math.min(span.end, middle.end),
      fixedMs: spread * (LEG_MS + (positive(roundTripMs) ?? UNMEASURED_ROUND_TRIP_MS) + waitingMs),
      blockMs: spread * aloneMs / (span.end - span.first)
    }
  }).filter(({ first, end }) => first < end).sort((a, b) => a.id < b.id ? -1 : 1)
}

/**
 * Returns the places where a route may be cut: where some server begins or ends. Cutting elsewhere takes as long as one of these at most,
 * since the time of a leg grows evenly with its blocks.
 */
function cutsOf (servers: readonly Span[], { first, end }: Span): number[] {
  return [...new Set([first, end, ...servers.flatMap((server) => [server.first, server.end])])].sort((a, b) => a - b)
}

/** Returns the middle one of the candidates' measured times of a block for one token. */
function usualBlockMs (candidates: readonly RouteCandidate[], middle: Span): number {
  const measured = candidates.flatMap(({ span: { first, end } = middle, load }) => {
    const ms = decodeMs(load)
    return ms === undefined || first >= end ? [] : [ms / (end - first)]
  }).sort((a, b) => a - b)
  return measured[Math.floor(measured.length / 2)] ?? UNMEASURED_BLOCK_MS
}

function decodeMs (load: ServerLoad | undefined): number | undefined {
  return perToken(load?.decodeTokensPerSecond)
}

/** Returns milliseconds a token; undefined where nothing was measured. */
function perToken (tokensPerSecond: number | undefined): number | undefined {
  const speed = positive(tokensPerSecond)
  return speed === undefined ? undefined : Math.min(1000 / speed, MOST)
}

/** Returns what a server said, where it is a number that can be reckoned with: the value is a peer's. */
function positive (value: number | undefined): number | undefined {
  return value !== undefined && value > 0 && Number.isFinite(value) ? Math.min(value, MOST) : undefined
}

function counted (value: number | undefined): number {
  return positive(value) ?? 0
}

/** Returns a number in [0, 1) that follows from a text alone, evenly spread. */
function share (text: string): number {
  return createHash('sha256').update(text).digest().readUInt32LE(0) / 2 ** 32
}
