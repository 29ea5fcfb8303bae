import { shown } from '../../errors.ts'
import { UnsupportedModelError, type Config, type Model } from './family.ts'
import { plainRotary, type RotaryTable } from './rotary-embedding.ts'

const SUPPORTED = ['default', 'linear', 'dynamic', 'llama3', 'yarn']
const DEFAULT_BASE = 10000

/** YaRN's bounds where a configuration names none: rotations within the original context (https://arxiv.org/abs/2309.00071). */
const [BETA_FAST, BETA_SLOW] = [32, 1]

/** How a family's heads turn. */
export interface RotaryShape {
  /** The share of each head that turns where the configuration says nothing; where it is left out, all of it turns always. */
  readonly share?: number
  /** Pairs are neighbours rather than halves. */
  readonly interleaved?: boolean
}

export interface PositionOptions extends RotaryShape {
  readonly headSize: number
  /** The configuration's own limit. */
  readonly maxPositions: number
}

interface Settings extends PositionOptions {
  readonly values: Config
  /** Positions that the model was trained on before it was stretched. */
  readonly original: number
  readonly base: number
}

type Positions = Pick<Model, 'rotary' | 'maxPositions'>

/**
 * Reads the rotary settings of a configuration, in the style of transformers before 5 (`rope_theta` and `rope_scaling`, which decides where
 * it is there) or since (`rope_parameters`), as transformers' modeling_rope_utils does. Throws UnsupportedModelError for what it does not
 * name.
 */
export function readPositions (config: Config, options: PositionOptions): Positions {
  const values = settingsIn(config, 'rope_scaling') ?? settingsIn(config, 'rope_parameters') ?? {}
  const nested = Object.keys(values).find((key) => key.endsWith('_attention'))
  if (nested !== undefined) throw new UnsupportedModelError(`rotary settings of their own for blocks of ${nested} are not supported`)
  const size = rotarySize(values.partial_rotary_factor ?? config.partial_rotary_factor, options)
  const base = number(values.rope_theta ?? config.rope_theta ?? DEFAULT_BASE, 'rope_theta')
  const original = number(
    config.original_max_position_embeddings ?? values.original_max_position_embeddings ?? options.maxPositions,
    'original_max_position_embeddings'
  )
  const { rotary, maxPositions } = scaled({ ...plainRotary(size, base), interleaved: options.interleaved ?? false }, {
    ...options,
    values,
    original,
    base
  })
  const rounded = { ...rotary, frequencies: rotary.frequencies.map(Math.fround) }
  return { rotary: checkedRotary(rounded, { rope_theta: base, ...values }), maxPositions }
}

/** Returns a table of angles as it is. Throws UnsupportedModelError, naming the settings behind it, where an angle is not finite. */
export function checkedRotary (rotary: RotaryTable, settings: Config): RotaryTable {
  if (!rotary.frequencies.every(Number.isFinite))
    throw new UnsupportedModelError(`the configuration's rotary settings give no angles: ${shown(settings)}`)
  return rotary
}

/** Returns how many elements of a head turn. */
function rotarySize (factor: unknown, { headSize, share }: PositionOptions): number {
  if (share === undefined && factor !== undefined && factor !== null && factor !== 1)
    throw new UnsupportedModelError(`this architecture turns whole heads, and partial_rotary_factor is ${shown(factor)}`)
  const size = Math.trunc(headSize * number(factor ?? share ?? 1, 'partial_rotary_factor'))
  if (size % 2 !== 0 || size < 2 || size > headSize)
    throw new UnsupportedModelError(`${size} elements of heads of ${headSize} cannot turn in pairs`)
  return size
}

function scaled (plain: RotaryTable, settings: Settings): Positions {
  const { values, maxPositions } = settings
  const type = values.rope_type ?? values.type ?? 'default'
  switch (type) {
    case 'default': return { rotary: plain, maxPositions }
    case 'linear': {
      const factor = stretch(values.factor)
      return {
        rotary: { ...plain, frequencies: plain.frequencies.map((frequency) => frequency / factor) },
        maxPositions: Math.floor(maxPositions * factor)
      }
    }
    case 'dynamic': {
      const factor = stretch(values.factor)
      return {
        rotary: { ...plain, growth: { base: settings.base, factor, trained: maxPositions } },
        maxPositions: Math.floor(maxPositions * factor)
      }
    }
    case 'llama3': return { rotary: { ...plain, frequencies: plain.frequencies.map(llama3(settings)) }, maxPositions }
    case 'yarn': return yarn(plain, settings)
    default: throw new UnsupportedModelError(`rotary scaling ${shown(type)} is not supported`, `supported are ${SUPPORTED.join(', ')}`)
  }
}

/** Scales the wave lengths: long waves are stretched, short ones kept, those between blended. */
function llama3 ({ values, original }: Settings): (frequency: number) => number {
  const factor = stretch(values.factor)
  const low = number(values.low_freq_factor, 'low_freq_factor')
  const high = number(values.high_freq_factor, 'high_freq_factor')
  return (frequency) => {
    const wave = 2 * Math.PI / frequency
    if (wave > original / low) return frequency / factor
    if (wave < original / high) return frequency
    const smooth = (original / wave - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency
  }
}

/**
 * Returns the same by the number of a pair, between those that turn `beta_fast` and `beta_slow` times in the original context; and queries
 * and keys are scaled.
 */
function yarn (plain: RotaryTable, { values, original, base, maxPositions }: Settings): Positions {
  const factor = stretch(values.factor ?? maxPositions / original)
  const pairTurning = (times: number): number => plain.size * Math.log(original / (times * 2 * Math.PI)) / (2 * Math.log(base))
  const [fast, slow] = [
    pairTurning(number(values.beta_fast ?? BETA_FAST, 'beta_fast')),
    pairTurning(number(values.beta_slow ?? BETA_SLOW, 'beta_slow'))
  ]
  const [low, high] = values.truncate === false ? [fast, slow] : [Math.floor(fast), Math.ceil(slow)]
  const from = Math.max(low, 0)
  const width = Math.min(high, plain.size - 1) - from
  const frequencies = plain.frequencies.map((frequency, pair) => {
    const stretched = Math.min(1, Math.max(0, (pair - from) / (width === 0 ? 0.001 : width)))
    return frequency / factor * stretched + frequency * (1 - stretched)
  })
  return {
    rotary: { ...plain, frequencies, scale: yarnScale(values, factor) },
    maxPositions: Math.max(maxPositions, Math.floor(original * factor))
  }
}

function yarnScale (values: Config, factor: number): number {
  if (values.attention_factor !== undefined && values.attention_factor !== null) return number(values.attention_factor, 'attention_factor')
  const grown = (share: number): number => factor <= 1 ? 1 : 0.1 * share * Math.log(factor) + 1
  const { mscale, mscale_all_dim: whole } = values
  return typeof mscale === 'number' && typeof whole === 'number' && mscale !== 0 && whole !== 0 ? grown(mscale) / grown(whole) : grown(1)
}

/** Reads the settings, of which null and none at all are the same. */
function settingsIn (config: Config, name: 'rope_scaling' | 'rope_parameters'): Config | undefined {
  const value = config[name] ?? {}
  if (typeof value !== 'object' || Array.isArray(value))
    throw new UnsupportedModelError(`the configuration's ${name} is ${shown(value)}, not an object with settings`)
  return Object.keys(value).length > 0 ? value as Config : undefined
}

/** Reads by how much positions are stretched; a factor that would shrink them is a mistake. */
function stretch (factor: unknown): number {
  if (number(factor, 'factor') < 1)
    throw new UnsupportedModelError(`the configuration's rotary setting factor is ${shown(factor)}, less than 1`)
  return factor as number
}

function number (value: unknown, name: string): number {
  if (typeof value !== 'number' || !(value > 0))
    throw new UnsupportedModelError(`the configuration's rotary setting ${name} is ${shown(value)}, not a positive number`)
  return value
}
