import { createRequire } from 'node:module'
import type * as Re2 from 're2js'

/** Where a match is in a text, in UTF-16 units. */
export interface MatchPlace {
  readonly start: number
  readonly end: number
}

const require = createRequire(import.meta.url)

/** Loads the engine with the first pattern that needs it: most never do, and each thread would take 20 ms to read it. */
function re2 (): typeof Re2.RE2JS {
  return (require('re2js') as typeof Re2).RE2JS
}

/** The insides of character classes for what RE2 does not have, or has for ASCII alone. */
const CLASSES: Readonly<Record<string, string>> = {
  'p{White_Space}': '\\t-\\r \\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}',
  s: '\\t-\\r \\xa0\\x{feff}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}'
}

/** What JavaScript's point does not match. */
const LINE_ENDS = '\\n\\r\\x{2028}\\x{2029}'

/** Letters and digits that have a meaning behind a backslash in both; others are references to groups, or are read otherwise. */
const ESCAPES = /^[^A-Za-z0-9]|^[bBdDfnprstuvwxPSW]/

/** How the tokenizer library writes any character. */
const ANY = '[\\s\\S]'

/**
 * A regular expression of which one search takes time that grows with the text alone, by the engine RE2. It finds what JavaScript finds
 * with the flag u, but for repetitions of what may be empty, and may have the flag i.
 */
export class LinearPattern {
  readonly #pattern: Re2.RE2JS

  private constructor (pattern: Re2.RE2JS) {
    this.#pattern = pattern
  }

  /** Returns the same pattern for RE2; undefined where it has what RE2 does not have, such as lookahead and references to groups. */
  static from ({ source, flags }: RegExp): LinearPattern | undefined {
    const translated = translate(source)
    if (translated === undefined || /[^dgiu]/.test(flags)) return undefined
    const RE2JS = re2()
    try {
      return new LinearPattern(RE2JS.compile(RE2JS.translateRegExp(translated), flags.includes('i') ? RE2JS.CASE_INSENSITIVE : 0))
    } catch {
      return undefined
    }
  }

  /** Returns whether a text has a match. */
  test (text: string): boolean {
    return this.#pattern.test(text)
  }

  /** Yields all matches from the first on, none of which overlap. */
  * matches (text: string): Generator<MatchPlace> {
    const matcher = this.#pattern.matcher(text)
    for (let at = 0; at <= text.length && matcher.find(at);) {
      const [start, end] = [matcher.start(), matcher.end()]
      yield { start, end }
      at = end > start ? end : end + ((text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1)
    }
  }

  /** Lets `String.replace` and `String.replaceAll` replace every match by what a function returns, or by a text as it stands. */
  [Symbol.replace] (text: string, by: string | ((match: string) => string)): string {
    const parts: string[] = []
    let at = 0
    for (const { start, end } of this.matches(text)) {
      parts.push(text.slice(at, start), typeof by === 'string' ? by : by(text.slice(start, end)))
      at = end
    }
    return parts.join('') + text.slice(at)
  }
}

/** Yields where a pattern matches a text; a RegExp has to have the flag g. */
export function * placesOf (pattern: RegExp | LinearPattern, text: string): Generator<MatchPlace> {
  if (pattern instanceof LinearPattern) yield * pattern.matches(text)
  else for (const { 0: match, index } of text.matchAll(pattern)) yield { start: index, end: index + match.length }
}

/** Rewrites what RE2 reads otherwise than JavaScript does. Returns undefined for what cannot be rewritten. */
function translate (source: string): string | undefined {
  let [rewritten, inClass] = ['', false]
  for (let at = 0; at < source.length;) {
    const [taken, escaped] = /^\\([pP]\{White_Space\}|[^])/.exec(source.slice(at, at + 16)) ?? [source[at]!]
    if (!inClass && source.startsWith(ANY, at)) {
      rewritten += '(?s:.)'
      at += ANY.length
      continue
    }
    if (escaped !== undefined && !ESCAPES.test(escaped)) return undefined
    const characters = escaped === undefined ? undefined : CLASSES[escaped.replace(/^[PS]/, (letter) => letter.toLowerCase())]
    if (characters === undefined) {
      rewritten += taken === '.' && !inClass ? `[^${LINE_ENDS}]` : taken
      if (taken === '[' || taken === ']') inClass = taken === '['
    } else {
      const isNegated = /^[PS]/.test(escaped!)
      if (inClass && isNegated) return undefined
      rewritten += inClass ? characters : `[${isNegated ? '^' : ''}${characters}]`
    }
    at += taken.length
  }
  return rewritten
}
