import type { Span } from '../../span.ts'
// How much of a sequence is kept for generation: all of it, or what windows span.
import { kindOf, type Model } from '../families/family.ts'
import { cachedHeadSize } from './cached-attention.ts'

/**
 * Rows of a sequence in one run, at most, where blocks keep no more than their window: room for them all is taken beside it. Many enough
 * that products take most of the time, and that a window's keys are seldom moved; few beside the windows of published models (4096).
 */
const WINDOWED_ROWS = 512

/** Whether blocks with a window forget keys that no query will see. Not where rotations depend on how many rows come at once. */
function forgets ({ windows, rotary }: Model): boolean {
  return rotary.growth === undefined && windows.some((window) => window !== null)
}

/** The rows of one sequence that a run may have. */
export function rowsAtOnce (model: Model): number {
  return forgets(model) ? WINDOWED_ROWS : Infinity
}

/** The rows of one sequence, run by run. */
export function inRuns<Row> (model: Model, rows: readonly Row[]): Array<readonly Row[]> {
  const most = rowsAtOnce(model)
  return rows.length <= most
    ? [rows]
    : Array.from({ length: Math.ceil(rows.length / most) }, (_, i) => rows.slice(i * most, (i + 1) * most))
}

/** Positions that a block's cache has room for, at most: those of the sequence, or a window and the rows of a run. */
export function mostPositions (model: Model, layer: number, capacity: number): number {
  const { window } = kindOf(model, layer)
  return window === null || !forgets(model) ? capacity : Math.min(capacity, window + WINDOWED_ROWS)
}

/** The first position that a block's cache keeps for rows from this one on: with a window, the keys that it spans before them. */
export function firstKept (model: Model, layer: number, position: number): number {
  const { window } = kindOf(model, layer)
  return window === null ? 0 : Math.max(0, position - window)
}

/** Bytes that a sequence's cache takes on the device when it is full. */
export function cacheBytes (model: Model, { first, end }: Span, capacity: number): number {
  let positions = 0
  for (let layer = first; layer < end; layer++) positions += mostPositions(model, layer, capacity)
  return positions * 2 * model.kvHeads * cachedHeadSize(model) * Float32Array.BYTES_PER_ELEMENT
}
