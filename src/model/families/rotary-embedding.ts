import { float32, tensor, type Tensor } from '../../tensor.ts'

/** How queries and keys turn with their position. */
export interface RotaryTable {
  /** Equal parts of each head, one after another, that turn by positions of their own; one when left out. */
  readonly parts?: number
  /** The first elements of each head, or of each part, that turn. */
  readonly size: number
  /** Pairs are neighbours rather than halves. */
  readonly interleaved: boolean
  /** Angle per position of each pair: [size / 2]. */
  readonly frequencies: readonly number[]
  /** What turned queries and keys are multiplied by, each; 1 when left out. */
  readonly scale?: number
  /** Where the base grows with sequences longer than those that the model was `trained` on. */
  readonly growth?: { readonly base: number, readonly factor: number, readonly trained: number }
}

/**
 * Rotary position embedding (https://arxiv.org/abs/2104.09864) of the first `size` elements of a head, rounded to float32 where PyTorch
 * rounds.
 */
export function plainRotary (size: number, base: number): RotaryTable {
  return {
    size,
    interleaved: false,
    frequencies: Array.from({ length: size / 2 }, (_, j) => Math.fround(1 / Math.fround(base ** Math.fround(2 * j / size))))
  }
}

/**
 * Returns how the rows turn that take a sequence to this length, of a model whose base grows ("dynamic NTK"). As in transformers, when a
 * model of its own computes the sequence alone: all rows of one pass turn by the length after it. So rows that were generated one by one
 * have turned by other angles than the same rows in one pass, beyond what the model was trained on; and other sequences never matter.
 */
export function rotaryAt (rotary: RotaryTable, length: number): RotaryTable {
  const { size, interleaved, growth } = rotary
  if (growth === undefined || length <= growth.trained) return rotary
  const { base, factor, trained } = growth
  return { ...plainRotary(size, base * (factor * length / trained - (factor - 1)) ** (size / (size - 2))), interleaved }
}

/** cos and sin of every position's angles, [positions, size / 2] each; the angles are rounded to float32 as in PyTorch. */
export function rotaryTables (rotary: RotaryTable, positions: number): { cos: Tensor, sin: Tensor } {
  return tables(rotary.frequencies.length, [{ rotary, from: 0, count: positions }])
}

/** Rows [from, from + count) of a sequence, computed in a pass that takes the sequence to the length `passEnd`, or to their own end. */
export interface RowRun {
  readonly from: number
  readonly count: number
  readonly passEnd?: number | undefined
}

/**
 * Tables in place of rotaryTables' for rows of sequences of which some have outgrown what the model was trained on: cos and sin [rows, size
 * / 2] and `positions` int64 [rows, 1], each row's place in them. Nothing where rotaryTables serve them all.
 */
export function grownTables (
  rotary: RotaryTable,
  runs: readonly RowRun[]
): { positions: Tensor, cos: Tensor, sin: Tensor } | Record<string, never> {
  const turned = runs.map(({ from, count, passEnd = from + count }) => ({ rotary: rotaryAt(rotary, passEnd), from, count }))
  if (turned.every((run) => run.rotary === rotary)) return {}
  const rows = runs.reduce((sum, { count }) => sum + count, 0)
  return {
    positions: tensor('int64', [rows, 1], BigInt64Array.from({ length: rows }, (_, row) => BigInt(row))),
    ...tables(rotary.frequencies.length, turned)
  }
}

function tables (pairs: number, runs: ReadonlyArray<RowRun & { readonly rotary: RotaryTable }>): { cos: Tensor, sin: Tensor } {
  const rows = runs.reduce((sum, { count }) => sum + count, 0)
  const [cos, sin] = [new Float32Array(rows * pairs), new Float32Array(rows * pairs)]
  let at = 0
  for (const { rotary: { frequencies, scale = 1 }, from, count } of runs) {
    for (let position = from; position < from + count; position++) {
      for (const frequency of frequencies) {
        const angle = Math.fround(position * frequency)
        cos[at] = Math.cos(angle) * scale
        sin[at++] = Math.sin(angle) * scale
      }
    }
  }
  return { cos: float32([rows, pairs], cos), sin: float32([rows, pairs], sin) }
}
