import { resolve } from 'node:path'
import { UsageError } from '../errors.ts'
import { parseHttpAddress } from '../node/http/address.ts'
import { SECURE_CONTRIBUTORS } from '../protocols/charter/constants.ts'
import { parseSpan, type Span } from '../span.ts'

/**
 * Turns the text of one option into its value. Throws UsageError whose message completes the sentence "--option 'text' …",
 * so that the caller can say where the text came from.
 */
export type Parse<T> = (text: string) => T

export interface Range {
  readonly min: number
  readonly max: number
}

export interface Bounds {
  readonly min?: number
  readonly max?: number
  /** Whether the lower bound itself is excluded. */
  readonly above?: boolean
}

/** No model has a block of a higher number. */
const MAX_BLOCK = 4095

const MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const
const BYTES = { B: 1, kB: 1e3, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 } as const

function unitOf<U extends Record<string, number>> (units: U, unit: string): number | undefined {
  return Object.hasOwn(units, unit) ? units[unit] : undefined
}

/** Parses a number followed by one of `units`. Returns undefined for any other text. */
function quantity (text: string, units: Record<string, number>): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]+)$/.exec(text.trim())
  const scale = match?.[2] === undefined ? undefined : unitOf(units, match[2])
  return scale === undefined ? undefined : Math.round(Number(match?.[1]) * scale)
}

/** Parses a duration such as 500ms, 60s, 30m, 24h or 7d into milliseconds. None is longer than `max`, which is written alike. */
export function duration ({ max }: { readonly max: string }): Parse<number> {
  const longestMs = quantity(max, MS) ?? 0
  return (text) => {
    const ms = quantity(text, MS)
    if (ms === undefined || ms <= 0) throw new UsageError('is not a duration such as 60s, 30m, 24h or 7d')
    if (!(ms <= longestMs)) throw new UsageError(`is longer than ${max}`, `give ${max} at most`)
    return ms
  }
}

/** Parses a size such as 64MiB or 2GB into bytes. */
export function size (text: string): number {
  const bytes = quantity(text, BYTES)
  if (bytes === undefined || bytes <= 0 || !Number.isSafeInteger(bytes)) throw new UsageError('is not a size such as 64MiB or 2GB')
  return bytes
}

function boundsText (bounds: Bounds): string {
  const low = bounds.min === undefined ? '' : ` ${bounds.above === true ? 'above' : 'of at least'} ${bounds.min}`
  const high = bounds.max === undefined ? '' : `${low === '' ? '' : ' and'} of at most ${bounds.max}`
  return low + high
}

function within (value: number, bounds: Bounds): boolean {
  const { min = -Infinity, max = Infinity, above = false } = bounds
  return Number.isFinite(value) && (above ? value > min : value >= min) && value <= max
}

/** Parses a decimal number within `bounds`. */
export function number (bounds: Bounds = {}): Parse<number> {
  return (text) => {
    const value = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text.trim()) ? Number(text) : NaN
    if (!within(value, bounds)) throw new UsageError(`is not a number${boundsText(bounds)}`)
    return value
  }
}

/** Parses a whole number within `bounds`. */
export function integer (bounds: Bounds = {}): Parse<number> {
  return (text) => {
    const value = /^[-+]?\d+$/.test(text.trim()) ? Number(text) : NaN
    if (!within(value, bounds) || !Number.isSafeInteger(value)) throw new UsageError(`is not a whole number${boundsText(bounds)}`)
    return value
  }
}

/** Parses a share, such as 1% or 0.01. */
export function share (text: string): number {
  const [, digits, percent] = /^(\d+\.?\d*|\.\d+)\s*(%?)$/.exec(text.trim()) ?? []
  const value = digits === undefined ? NaN : Number(digits) / (percent === '%' ? 100 : 1)
  if (!(value <= 1)) throw new UsageError('is not a share such as 1% or 0.01')
  return value
}

/** Parses one of the given words. */
export function choice<const T extends string> (...words: readonly T[]): Parse<T> {
  return (text) => {
    const found = words.find((word) => word === text)
    if (found === undefined) throw new UsageError(`is not one of ${words.join(', ')}`)
    return found
  }
}

/** Parses rules for what to withhold; a list's path becomes absolute, since the daemon reads it. */
export function withhold (text: string): string {
  const parts = text.split(',').map((part) => part.trim())
  if (parts.includes('')) throw new UsageError('has an empty rule', 'give names, numbers, capitals, rare:SHARE or a file')
  return parts.map((part) => /^(?:names|numbers|capitals|rare:.*)$/.test(part) ? part : resolve(part)).join(',')
}

/** Parses on or off. */
export function onOff (text: string): boolean {
  return choice('on', 'off')(text) === 'on'
}

/** Parses items that are separated by commas: at least one, and none twice unless the list `repeats`. */
export function list<T> (item: Parse<T>, { repeats = false } = {}): Parse<readonly T[]> {
  return (text) => {
    const items = text.split(',').map((part) => item(part.trim()))
    if (!repeats && new Set(items).size !== items.length) throw new UsageError('names an item twice')
    return items
  }
}

/** Parses an inclusive range of counts, `MIN..MAX`, or one number for both. */
export function range (bounds: Bounds = {}): Parse<Range> {
  const count = integer(bounds)
  return (text) => {
    const parts = text.split('..')
    const [min, max = min] = parts
    if (min === undefined || max === undefined || parts.length > 2) throw new UsageError('is not a range such as 1..4')
    const value = { min: count(min), max: count(max) }
    if (value.min > value.max) throw new UsageError('is a range whose first number is above its second')
    return value
  }
}

/** Parses block numbers, given as numbers and inclusive ranges: `2..3,5`. */
export function blockNumbers (text: string): readonly number[] {
  const blocks = text.split(',').flatMap((part) => {
    const { min, max } = range({ min: 0, max: MAX_BLOCK })(part.trim())
    return Array.from({ length: max - min + 1 }, (_, index) => min + index)
  })
  if (new Set(blocks).size !== blocks.length) throw new UsageError('names a block twice')
  return blocks
}

/** Parses the blocks of a server, `FIRST-END`: the first one and the one after the last. */
export function span (text: string): Span {
  const span = parseSpan(text)
  if (span === undefined)
    throw new UsageError('is not a span such as 4-12: the first block, and the block after the last', 'give 4-12 for the blocks 4 to 11')
  return span
}

/** Parses the blocks of a server, or `auto`. */
export function spanOrAuto (text: string): Span | 'auto' {
  return text === 'auto' ? text : span(text)
}

/** Parses `auto`, `none` or the L2 norm that rows are clipped to. */
export function clip (text: string): 'auto' | 'none' | number {
  if (text === 'auto' || text === 'none') return text
  try {
    return number({ min: 0, above: true })(text)
  } catch (cause) {
    throw new UsageError('is not auto, none or a number above 0', undefined, cause)
  }
}

/** Parses `shared`, `personal` or `average:K`. */
export function ends (text: string): { mode: 'shared' } | { mode: 'personal' } | { mode: 'average', every: number } {
  if (text === 'shared' || text === 'personal') return { mode: text }
  const every = /^average:([1-9]\d{0,8})$/.exec(text)?.[1]
  if (every === undefined) throw new UsageError('is not shared, personal or average:K with a whole K of at least 1')
  return { mode: 'average', every: Number(every) }
}

/** Parses how contributions are put together: plain, secure, or secure:COUNT. */
export function aggregation (text: string): { mode: 'plain' } | { mode: 'secure', minContributors: number } {
  if (text === 'plain') return { mode: text }
  const match = /^secure(?::(\d{1,3}))?$/.exec(text)
  if (match === null) throw new UsageError('is not plain, secure or secure:COUNT')
  const { least, most } = SECURE_CONTRIBUTORS
  const minContributors = Number(match[1] ?? least)
  if (minContributors < least || minContributors > most)
    throw new UsageError(`is of ${minContributors} clients`, `give ${least} to ${most}: of a sum of two each knows what the other one added`)
  return { mode: 'secure', minContributors }
}

/** Parses text that is not empty. */
export function text (value: string): string {
  if (value === '') throw new UsageError('is empty')
  return value
}

/** Parses a path and makes it absolute: the daemon that may open it has a working directory of its own. */
export function path (value: string): string {
  return resolve(text(value))
}

/** Parses `true` or `false`, for switches that come from the environment or a file. */
export function boolean (value: string): boolean {
  if (value === 'true' || value === '1') return true
  if (value === 'false' || value === '0') return false
  throw new UsageError('is not true or false')
}

/** Parses a norm above 0, or `none` into null. */
export function normOrNone (value: string): number | null {
  if (value === 'none') return null
  try {
    return number({ min: 0, above: true })(value)
  } catch (cause) {
    throw new UsageError('is not none or a number above 0', undefined, cause)
  }
}

/** Parses bytes in hexadecimal, 64 at most. */
export function hexSeed (value: string): string {
  if (!/^[0-9a-fA-F]{1,128}$/.test(value)) throw new UsageError('is not 1 to 128 hexadecimal digits')
  return value.toLowerCase()
}

/** Parses an Ed25519 peer id. Only the shape is checked here: the user of the value decodes it. */
export function peerId (value: string): string {
  if (!/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/.test(value)) throw new UsageError('is not a peer id such as 12D3KooW…')
  return value
}

/** Parses a multiaddr. Only the shape is checked here: the user of the value decodes it. */
export function address (value: string): string {
  if (!/^(\/[^/\s]+)+$/.test(value)) throw new UsageError('is not a multiaddr such as /ip4/127.0.0.1/tcp/4001')
  return value
}

/** Parses an address to serve HTTP on: `HOST:PORT`, or a port alone. */
export function httpAddress (value: string): string {
  if (parseHttpAddress(value) === undefined) throw new UsageError('is not an address such as 127.0.0.1:4010, or a port')
  return value
}

/** Parses a name of a machine. */
export function hostName (value: string): string {
  if (!/^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(value)) throw new UsageError('is not a name such as gpu.example.org')
  return value
}

/** Parses a field and the column that it is read from, such as completion=answer. */
export function fieldColumn (value: string): readonly [string, string] {
  const [, field, column] = /^([^=]+)=(.+)$/.exec(value) ?? []
  if (field === undefined || column === undefined) throw new UsageError('is not a field and a column such as completion=answer')
  return [field, column]
}
