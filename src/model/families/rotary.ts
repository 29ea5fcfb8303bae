import { float32, type Tensor } from '../../tensor.ts'

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
}

/** Rotary position embedding (https://arxiv.org/abs/2104.09864) of the first `size` elements of a head, rounded to float32 where PyTorch rounds. */
export function plainRotary (size: number, base: number): RotaryTable {
  return { size, interleaved: false, frequencies: Array.from({ length: size / 2 }, (_, j) => Math.fround(1 / Math.fround(base ** Math.fround(2 * j / size)))) }
}

/** cos and sin of every position's angles, [positions, size / 2] each; the angles are rounded to float32 as in PyTorch. */
export function rotaryTables ({ frequencies, scale = 1 }: RotaryTable, positions: number): { cos: Tensor, sin: Tensor } {
  const pairs = frequencies.length
  const cos = new Float32Array(positions * pairs)
  const sin = new Float32Array(positions * pairs)
  for (let position = 0; position < positions; position++) {
    for (let pair = 0; pair < pairs; pair++) {
      const angle = Math.fround(position * frequencies[pair]!)
      cos[position * pairs + pair] = Math.cos(angle) * scale
      sin[position * pairs + pair] = Math.sin(angle) * scale
    }
  }
  return { cos: float32([positions, pairs], cos), sin: float32([positions, pairs], sin) }
}
