import { float32, type Tensor } from '../../tensor.ts'
import { UnsupportedModelError, type Config } from './family.ts'

/** How queries and keys turn with their position. */
export interface RotaryTable {
  /** The first elements of each head that turn. */
  readonly size: number
  /** Pairs are neighbours rather than halves. */
  readonly interleaved: boolean
  /** Angle per position of each pair: [size / 2]. */
  readonly frequencies: readonly number[]
}

const SUPPORTED = ['default', 'linear', 'llama3']

/** Reads the rotary settings of a configuration: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before). */
export function readRotary (config: Config, size: number): RotaryTable {
  const settings = record(config.rope_parameters) ?? record(config.rope_scaling) ?? {}
  const theta = number(settings.rope_theta ?? config.rope_theta ?? 10000, 'rope_theta')
  const type = settings.rope_type ?? settings.type ?? 'default'
  const plain = Array.from({ length: size / 2 }, (_, j) => Math.fround(1 / theta ** (2 * j / size)))
  return { size, interleaved: false, frequencies: scaled(plain, type, settings) }
}

function scaled (plain: readonly number[], type: unknown, settings: Config): readonly number[] {
  switch (type) {
    case 'default': return plain
    case 'linear': {
      const factor = number(settings.factor, 'factor')
      return plain.map(frequency => Math.fround(frequency / factor))
    }
    case 'llama3': return plain.map(llama3(settings))
    default: throw new UnsupportedModelError(`rotary scaling ${JSON.stringify(type)} is not supported`, `supported are ${SUPPORTED.join(', ')}`)
  }
}

/** Long waves are stretched, short ones kept, those between blended (as transformers' modeling_rope_utils, "llama3"). */
function llama3 (settings: Config): (frequency: number) => number {
  const factor = number(settings.factor, 'factor')
  const low = number(settings.low_freq_factor, 'low_freq_factor')
  const high = number(settings.high_freq_factor, 'high_freq_factor')
  const original = number(settings.original_max_position_embeddings, 'original_max_position_embeddings')
  return frequency => {
    const wave = 2 * Math.PI / frequency
    if (wave > original / low) return Math.fround(frequency / factor)
    if (wave < original / high) return frequency
    const smooth = (original / wave - low) / (high - low)
    return Math.fround((1 - smooth) * frequency / factor + smooth * frequency)
  }
}

/** cos and sin of every position's angles, [positions, size / 2] each; the angles are rounded to float32 as in PyTorch. */
export function rotaryTables ({ frequencies }: RotaryTable, positions: number): { cos: Tensor, sin: Tensor } {
  const pairs = frequencies.length
  const cos = new Float32Array(positions * pairs)
  const sin = new Float32Array(positions * pairs)
  for (let position = 0; position < positions; position++) {
    for (let pair = 0; pair < pairs; pair++) {
      const angle = Math.fround(position * frequencies[pair]!)
      cos[position * pairs + pair] = Math.cos(angle)
      sin[position * pairs + pair] = Math.sin(angle)
    }
  }
  return { cos: float32([positions, pairs], cos), sin: float32([positions, pairs], sin) }
}

function record (value: unknown): Config | undefined {
  return typeof value === 'object' && value !== null ? value as Config : undefined
}

function number (value: unknown, name: string): number {
  if (typeof value !== 'number' || !(value > 0)) throw new UnsupportedModelError(`the configuration's rotary setting ${name} is ${JSON.stringify(value)}, not a positive number`)
  return value
}
