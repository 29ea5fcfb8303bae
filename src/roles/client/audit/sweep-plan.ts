import type { sweepAxes } from '../../../api/audit-sweep.ts'
import { allowedPartitions, type ClientSettings } from '../../../protocols/charter/index.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'

/** Noises that are tried, for rows of 64 coordinates; for wider rows they grow by the root of the width, as those of a curve do. */
const NOISES: readonly number[] = [0, 0.2, 0.4, 0.8, 1.6]
const NOISES_WIDTH = 64

/** Rules that are tried, from those that withhold few words to those that withhold many. */
const RULES: readonly string[] = ['numbers', 'names', 'capitals', 'rare:0.1%', 'rare:1%']

/** Cuts that are tried, at most: each takes trainings of its own. */
const PARTITIONS = 6

export interface Noises {
  readonly noise: number
  readonly gradientNoise: number
}

/** Settings that are attacked at once: they differ in noise alone. */
export interface SweepGroup {
  readonly partition: Partition
  /** The rules by which words are withheld. */
  readonly rules: string | undefined
  readonly noises: readonly Noises[]
}

export interface SweepPlan {
  /** The client's own cut comes first, without further words withheld. */
  readonly groups: readonly SweepGroup[]
  /** What is not offered, and why. */
  readonly notices: readonly string[]
}

/** Lists settings within a charter that differ from a client's along some axes. `rules` withhold words in all of them, if there are any. */
export function planSweep (
  charter: Pick<Charter, 'privacy' | 'partitions' | 'model'>,
  settings: ClientSettings,
  { axes, rules }: { readonly axes: ReadonlyArray<typeof sweepAxes[number]>, readonly rules: string | undefined }
): SweepPlan {
  const noises = axes.includes('noise') ? noisesWithin(charter, settings) : [settings]
  const withholding = axes.includes('withhold') ? rulesBeside(rules) : [rules]
  const partitions = axes.includes('partition') ? cutsWithin(charter, settings.partition) : [settings.partition]
  return {
    groups: partitions.flatMap((partition) =>
      withholding.map((each): SweepGroup => ({ partition, rules: each, noises: noises.map(noisesOf) }))),
    notices: axes.flatMap((axis) => axis === 'noise' ? noiseNotices(charter) : axis === 'partition' ? cutNotices(charter) : [])
  }
}

/** Describes a setting, for people. */
export function settingText ({ inputBlocks, outputBlocks }: Partition, rules: string | undefined, noises?: Noises): string {
  const noise = noises === undefined ? [] : [noises.noise === 0 ? 'no noise' : `noise ${noises.noise}`]
  const withheld = rules === undefined ? 'nothing withheld' : `${rules} withheld`
  return [`${inputBlocks} and ${outputBlocks} blocks here`, withheld, ...noise].join(', ')
}

function noisesOf ({ noise, gradientNoise }: Noises): Noises {
  return { noise, gradientNoise }
}

/** Lists noises, the same on hidden states and on gradients, as far as the charter allows. */
function noisesWithin ({ privacy, model: { hidden } }: Pick<Charter, 'privacy' | 'model'>, own: Noises): Noises[] {
  if (privacy.clip === null) return [own]
  const widened = NOISES.map((noise) => Number((noise * Math.sqrt(hidden / NOISES_WIDTH)).toPrecision(2)))
  const allowed = (noise: number): Noises =>
    ({ noise: Math.max(noise, privacy.noise), gradientNoise: Math.max(noise, privacy.gradientNoise) })
  const all = [...widened.map(allowed), noisesOf(own)]
  const different = all.filter((each, i) => all.findIndex((other) => sameNoises(each, other)) === i)
  return different.sort((a, b) => a.noise - b.noise || a.gradientNoise - b.gradientNoise)
}

function sameNoises (a: Noises, b: Noises): boolean {
  return a.noise === b.noise && a.gradientNoise === b.gradientNoise
}

function rulesBeside (given: string | undefined): Array<string | undefined> {
  if (given === undefined) return [undefined, ...RULES]
  const parts = given.split(',').map((part) => part.trim())
  return [given, ...RULES.filter((rule) => !parts.includes(rule)).map((rule) => `${given},${rule}`)]
}

/** Lists cuts, the nearest to the client's own first. */
function cutsWithin (charter: Pick<Charter, 'partitions'>, own: Partition): Partition[] {
  const distance = ({ inputBlocks, outputBlocks }: Partition): number =>
    Math.abs(inputBlocks - own.inputBlocks) + Math.abs(outputBlocks - own.outputBlocks)
  return allowedPartitions(charter).sort((a, b) => distance(a) - distance(b)).slice(0, PARTITIONS)
}

function noiseNotices ({ privacy: { clip, noise, gradientNoise } }: Pick<Charter, 'privacy'>): string[] {
  if (clip === null) return ['noise is not varied: this charter has no clip norms that it is relative to, and it takes another charter']
  const floor = Math.max(noise, gradientNoise)
  if (floor === 0) return []
  return [`less noise than the charter's floor (${noise} on hidden states, ${gradientNoise} on gradients) takes another charter`]
}

function cutNotices ({ partitions: { inputBlocks, outputBlocks } }: Pick<Charter, 'partitions'>): string[] {
  const range = ({ min, max }: { readonly min: number, readonly max: number }): string => min === max ? String(min) : `${min} to ${max}`
  return [`cuts beyond ${range(inputBlocks)} blocks before the middle and ${range(outputBlocks)} behind it take another charter`]
}
