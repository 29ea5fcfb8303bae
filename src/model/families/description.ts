// What families describe their models with.
import { z } from 'zod'
import { UnsupportedModelError, type Config, type LinearModule, type Model, type Norm } from './family.ts'

export const count = z.int().positive()

/** A charter's configuration comes from a peer, and what is kept of each block takes memory; the deepest models have some hundred. */
export const layerCount = count.max(10_000)

/** A long list in a configuration can have a fault at each of its places. */
const FAULTS_TOLD = 3

/** Reads a configuration by its family's schema. Throws UnsupportedModelError, with what is wrong, for one that does not fit. */
export function readConfig<Schema extends z.ZodType> (family: string, schema: Schema, config: Config): z.output<Schema> {
  const parsed = schema.safeParse(config)
  if (parsed.success) return parsed.data
  const faults = parsed.error.issues.slice(0, FAULTS_TOLD).map(({ path, message }) => `${path.join('.')}: ${message}`)
  throw new UnsupportedModelError(
    `the configuration is not ${family}'s: ${faults.join('; ')}`,
    'use the config.json that was published with the model'
  )
}

/** Query heads over the key/value heads that they share. */
export type Heads = Pick<Model, 'heads' | 'kvHeads' | 'headSize'>

/** The angles of a head are computed before any weight is seen; published models have heads of 256 at most. */
const MAX_HEAD_SIZE = 4096

/** Throws UnsupportedModelError for heads that do not divide evenly, or are too large to be meant. */
export function checkHeads ({ heads, kvHeads, headSize }: Heads): Heads {
  if (!Number.isInteger(headSize) || headSize % 2 !== 0 || heads % kvHeads !== 0) {
    throw new UnsupportedModelError(`${heads} heads of ${headSize} over ${kvHeads} key/value heads do not divide evenly`)
  }
  if (headSize > MAX_HEAD_SIZE) throw new UnsupportedModelError(`heads have ${MAX_HEAD_SIZE} elements at most, not ${headSize}`)
  return { heads, kvHeads, headSize }
}

export function rmsNorm (name: string, size: number): Norm {
  return { name, kind: 'rms', size }
}

export function layerNorm (name: string, size: number): Norm {
  return { name, kind: 'layer', size }
}

export function linear (name: string, inputSize: number, outputSize: number, bias = false): LinearModule {
  return { name, inputSize, outputSize, bias }
}

/** Gives every block the same window: a position sees so many keys back, its own among them; null: all. */
export function sameWindow (layers: number, window: number | null): Model['windows'] {
  return Array.from({ length: layers }, () => window)
}
