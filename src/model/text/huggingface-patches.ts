import * as library from '@huggingface/tokenizers'
import { TokenizerError } from './errors.ts'
import { LinearPattern, placesOf } from './linear-pattern.ts'

/** The parts of the library's objects that are set right here; its published declarations do not resolve under Node's module rules. */
export interface Part {
  config?: Record<string, unknown>
  pattern?: RegExp | LinearPattern | null
  tokenizers?: ReadonlyArray<Part | null>
  normalizers?: ReadonlyArray<Part | null>
  decoders?: ReadonlyArray<Part | null>
  normalize?: (text: string) => string
  pre_tokenize_text?: (text: string, options?: { section_index?: number }) => string[]
  replacement?: string
  str_rep?: string
  prepend_scheme?: string
}

/** Python's and Rust's white space, which is Unicode's; JavaScript's `\s` has U+FEFF and lacks U+0085. */
const SPACE = '\\p{White_Space}'
const WORD = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d'
const PUNCTUATION = '\\p{P}\\u0021-\\u002F\\u003A-\\u0040\\u005B-\\u0060\\u007B-\\u007E'

const byteLevel = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  'gu'
)

/** How much longer a text may become by replacements: real ones keep its length or triple it. */
const MAX_GROWTH = 256

const classes = library as unknown as Readonly<Record<string, abstract new (...args: never[]) => unknown>>

function isA (part: Part, name: string): boolean {
  return part instanceof classes[name]!
}

/**
 * Has RE2 match the patterns that the file brings, wherever it can, in place of an engine that may take exponential time.
 */
export function matchLinearly (parts: ReadonlyArray<Part | null | undefined>): void {
  for (const part of parts.flatMap(flatten)) {
    if (part.pattern instanceof RegExp && (part.config?.pattern as { Regex?: unknown } | undefined)?.Regex !== undefined)
      part.pattern = LinearPattern.from(part.pattern) ?? part.pattern
  }
}

/**
 * Makes the library's parts divide and change texts as the Python library `tokenizers` does.
 * Throws TokenizerError, naming it, for what neither does alike.
 */
export function patchParts (
  { normalizer, pre_tokenizer: preTokenizer }: { readonly normalizer: Part | null, readonly pre_tokenizer: Part | null },
  configs: { readonly normalizer: unknown, readonly pre_tokenizer: unknown }
): void {
  const normalizers = withConfigs(normalizer, configs.normalizer)
  const preTokenizers = withConfigs(preTokenizer, configs.pre_tokenizer)
  for (const part of normalizers) patchNormalizer(part)
  for (const part of preTokenizers) patchPreTokenizer(part)
  checkGrowth([...normalizers, ...preTokenizers])
}

/** Returns the parts of a sequence, each with what the file says of it: not all of them keep it. */
function withConfigs (part: Part | null, config: unknown): Part[] {
  const parts = flatten(part)
  const configs = flattenConfig(config)
  if (parts.length !== configs.length) throw new TokenizerError('its normalizers or pre-tokenizers are not all read')
  parts.forEach((each, i) => { each.config = configs[i]! })
  return parts
}

/** Returns what the file says of each part of a sequence of normalizers or pre-tokenizers. */
export function flattenConfig (config: unknown): Array<Record<string, unknown>> {
  if (typeof config !== 'object' || config === null) return []
  const { type, normalizers, pretokenizers } = config as Record<string, unknown>
  const inner = type === 'Sequence' ? pretokenizers ?? normalizers : undefined
  return Array.isArray(inner) ? inner.flatMap(flattenConfig) : [config as Record<string, unknown>]
}

function flatten (part: Part | null | undefined): Part[] {
  if (part === null || part === undefined) return []
  const inner = part.tokenizers ?? part.normalizers ?? part.decoders
  return inner === undefined ? [part] : inner.flatMap(flatten)
}

function patchNormalizer (part: Part): void {
  const { config = {} } = part
  if (isA(part, 'PrecompiledNormalizer')) throw unknown('the normalizer Precompiled')
  if (isA(part, 'ReplaceNormalizer') && part.pattern instanceof RegExp)
    part.normalize = (text) => text.replace(part.pattern!, () => typeof config.content === 'string' ? config.content : '')
  // Each character by itself: the Python library knows no final sigma.
  if (isA(part, 'LowercaseNormalizer')) part.normalize = (text) => Array.from(text, (character) => character.toLowerCase()).join('')
  if (isA(part, 'BertNormalizer') && config.lowercase !== false) {
    const original = part.normalize!.bind(part)
    part.normalize = (text) => original(text.replaceAll('\u03a3', '\u03c3'))
  }
  if (isA(part, 'StripNormalizer'))
    part.normalize = (text) => {
      const start = config.strip_left === true ? text.replace(new RegExp(`^${SPACE}+`, 'u'), '') : text
      return config.strip_right === true ? trimSpaceEnd(start) : start
    }
}

function patchPreTokenizer (part: Part): void {
  const { config = {} } = part
  if (isA(part, 'ByteLevelPreTokenizer')) part.pattern = byteLevel
  else if (isA(part, 'DigitsPreTokenizer')) part.pattern = new RegExp(`\\P{N}+|\\p{N}${config.individual_digits === true ? '' : '+'}`, 'gu')
  else if (isA(part, 'WhitespaceSplitPreTokenizer')) part.pre_tokenize_text = (text) => text.match(/\P{White_Space}+/gu) ?? []
  else if (isA(part, 'WhitespacePreTokenizer'))
    part.pre_tokenize_text = (text) => text.match(new RegExp(`[${WORD}]+|[^${WORD}${SPACE}]+`, 'gu')) ?? []
  else if (isA(part, 'BertPreTokenizer'))
    part.pre_tokenize_text = (text) => text.match(new RegExp(`[^${SPACE}${PUNCTUATION}]+|[${PUNCTUATION}]`, 'gu')) ?? []
  else if (isA(part, 'PunctuationPreTokenizer')) {
    const behavior = behaviorOf(config.behavior ?? 'Isolated')
    part.pre_tokenize_text = (text) => divide(text, new RegExp(`[${PUNCTUATION}]`, 'gu'), behavior, false)
  } else if (isA(part, 'SplitPreTokenizer') && part.pattern instanceof RegExp) {
    const behavior = behaviorOf(config.behavior)
    part.pre_tokenize_text = (text) => divide(text, part.pattern!, behavior, config.invert === true)
  } else if (isA(part, 'FixedLengthPreTokenizer')) {
    const length = typeof config.length === 'number' && config.length >= 1 ? config.length : 5
    part.pre_tokenize_text = (text) => {
      const points = Array.from(text)
      return Array.from({ length: Math.ceil(points.length / length) }, (_, i) => points.slice(i * length, (i + 1) * length).join(''))
    }
  } else if (isA(part, 'MetaspacePreTokenizer')) patchMetaspace(part, config)
  else if (isA(part, 'ReplacePreTokenizer')) throw unknown('the pre-tokenizer Replace')
}

function patchMetaspace (part: Part, config: Readonly<Record<string, unknown>>): void {
  if (config.prepend_scheme === undefined && config.add_prefix_space === false) part.prepend_scheme = 'never'
  if (config.split === false) return
  const replacement = part.replacement ?? '\u2581'
  const original = part.pre_tokenize_text!.bind(part)
  part.pre_tokenize_text = (text, options) =>
    original(text, options).flatMap((piece) => divide(piece, new RegExp(replacement.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'gu'), 'mergedwithnext', false))
}

const behaviors = ['removed', 'isolated', 'mergedwithprevious', 'mergedwithnext', 'contiguous'] as const
type Behavior = typeof behaviors[number]

function behaviorOf (name: unknown): Behavior {
  const found = behaviors.find((behavior) => behavior === String(name).toLowerCase().replaceAll('_', ''))
  if (found === undefined) throw unknown(`the behavior ${String(name)} of a pre-tokenizer`)
  return found
}

/** Divides a text at the matches of a pattern, or with `invert` at what does not match, as the Python library's `split` does. */
export function divide (text: string, pattern: RegExp | LinearPattern, behavior: Behavior, invert: boolean): string[] {
  const parts: Array<{ value: string, matches: boolean }> = []
  const add = (value: string, matches: boolean): void => {
    if (value !== '') parts.push({ value, matches: matches !== invert })
  }
  let at = 0
  for (const { start, end } of placesOf(pattern, text)) {
    add(text.slice(at, start), false)
    add(text.slice(start, end), true)
    at = end
  }
  add(text.slice(at), false)
  switch (behavior) {
    case 'isolated': return parts.map(({ value }) => value)
    case 'removed': return parts.filter(({ matches }) => !matches).map(({ value }) => value)
    case 'contiguous': return merged(parts, (before, { matches }) => before.matches === matches)
    case 'mergedwithprevious': return merged(parts, (before, { matches }) => matches && !before.matches)
    case 'mergedwithnext': return merged(parts, (before, { matches }) => before.matches && !matches)
  }
}

/** Joins neighbours; each part is compared with the last one that was joined. */
function merged (
  parts: ReadonlyArray<{ readonly value: string, readonly matches: boolean }>,
  joins: (before: { readonly matches: boolean }, part: { readonly matches: boolean }) => boolean
): string[] {
  const values: string[] = []
  parts.forEach((part, i) => {
    if (i > 0 && joins(parts[i - 1]!, part)) values[values.length - 1] += part.value
    else values.push(part.value)
  })
  return values
}

/** Refuses replacements that together would make a short text fill the memory. */
function checkGrowth (parts: readonly Part[]): void {
  const growth = parts.reduce((product, { config = {} }) => {
    const content = [config.content, config.prepend].map((value) => typeof value === 'string' ? value.length : 0)
    const { String: literal } = (config.pattern ?? {}) as { String?: unknown }
    if (config.pattern === undefined) return product
    return product * (typeof literal === 'string' && literal !== '' ? Math.max(1, content[0]! / literal.length) : 1 + content[0]!)
  }, 1)
  if (growth > MAX_GROWTH) throw new TokenizerError('its replacements could make a text more than 256 times as long')
}

function unknown (what: string): TokenizerError {
  return new TokenizerError(`${what} is not read as the Python library does`, 'convert the tokenizer, or use the model\'s tokenizer.model')
}

/** Removes white space at the end, in time that grows with the text alone. */
export function trimSpaceEnd (text: string): string {
  let end = text.length
  while (end > 0 && /\p{White_Space}/u.test(text[end - 1]!)) end--
  return text.slice(0, end)
}
