// The size of KV caches: a block keeps every position of a sequence, or, where it attends within a window, the positions of the window.
import type { Span } from '../../span.ts'
import { kindOf, type Model } from '../families/family.ts'
import { cachedHeadSize } from './cached-attention.ts'

/**
 * Tokens of one sequence in one run, at most, for a model whose blocks keep only their windows: a cache has room for a window and one run.
 * The number is large enough that matrix products take most of a run's time and that the kept positions are seldom moved, and small beside
 * the windows of published models (4096 tokens).
 */
const WINDOWED_CHUNK_TOKENS = 512

/**
 * Returns whether blocks with a window forget the keys before it. They keep all keys in a model whose rotary base grows, since the base
 * depends on the number of tokens that are computed at once.
 */
function forgets ({ windows, rotary }: Model): boolean {
  return rotary.growth === undefined && windows.some((window) => window !== null)
}

/** Returns the number of tokens of one sequence that one run may have. */
export function maxChunkTokens (model: Model): number {
  return forgets(model) ? WINDOWED_CHUNK_TOKENS : Infinity
}

/** Splits consecutive tokens of one sequence into the chunks that runs may have, in order. */
export function chunksOf<Token> (model: Model, tokens: readonly Token[]): Array<readonly Token[]> {
  const most = maxChunkTokens(model)
  return tokens.length <= most
    ? [tokens]
    : Array.from({ length: Math.ceil(tokens.length / most) }, (_, i) => tokens.slice(i * most, (i + 1) * most))
}

/** Returns the number of positions that the cache of a block can hold: those of the sequence, or those of a window and one run. */
export function mostPositions (model: Model, layer: number, capacity: number): number {
  const { window } = kindOf(model, layer)
  return window === null || !forgets(model) ? capacity : Math.min(capacity, window + WINDOWED_CHUNK_TOKENS)
}

/** Returns the first position that a block's cache must keep for tokens from `position` on: 0, or the first position in their window. */
export function firstKept (model: Model, layer: number, position: number): number {
  const { window } = kindOf(model, layer)
  return window === null ? 0 : Math.max(0, position - window)
}

/** Returns bytes of device memory that a sequence's KV cache for the blocks of a span takes when it is full. */
export function cacheBytes (model: Model, { first, end }: Span, capacity: number): number {
  let positions = 0
  for (let layer = first; layer < end; layer++) positions += mostPositions(model, layer, capacity)
  return positions * 2 * model.kvHeads * cachedHeadSize(model) * Float32Array.BYTES_PER_ELEMENT
}
