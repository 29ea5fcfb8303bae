import { UsageError } from '../../errors.ts'
import { LinearPattern } from '../text/linear-pattern.ts'

/** Kinds of words that can be withheld without a list of them. */
export const withholdKinds = ['names', 'numbers', 'capitals'] as const

/** A rule by which words are withheld. */
export type WithholdRule =
  | { readonly kind: typeof withholdKinds[number] }
  /** Words that make up less than this share of the words of the data. */
  | { readonly kind: 'rare', readonly share: number }
  /** Words, in lower case, and patterns for whole words, which RE2 matches. */
  | { readonly kind: 'list', readonly words: ReadonlySet<string>, readonly patterns: readonly RegExp[] }

/** A word's place in a text, in UTF-16 units. */
export interface WordPlace {
  readonly word: string
  readonly start: number
  readonly end: number
  /** Whether it begins a sentence, where a capital says nothing. */
  readonly beginsSentence: boolean
}

/** A file of words is read whole. */
export const MAX_WITHHOLD_FILE_CHARACTERS = 10_000_000

/** Letters, marks and digits, joined within a word by apostrophes, hyphens, points, commas and what numbers and addresses have besides. */
const WORD = /[\p{L}\p{M}\p{N}]+(?:['’\-_@.,:/+]?[\p{L}\p{M}\p{N}]+)*/gu

/** Behind these a sentence begins. */
const SENTENCE_END = /[.!?…。！？:;\n"“”«»([{]\s*$/u

/** A title or an initial with its point, behind which no sentence begins. */
const ABBREVIATION = /(?:^|[^\p{L}])\p{Lu}\p{L}{0,2}\.\s*$/u

/** The English pronoun is written with a capital wherever it stands. */
const PRONOUN = /^I(?:['’]\p{L}+)?$/u

/** Finds the words of a text. */
export function wordsOf (text: string): WordPlace[] {
  return Array.from(text.matchAll(WORD), ({ 0: word, index }) => {
    const before = text.slice(Math.max(0, index - LOOK_BACK), index)
    return { word, start: index, end: index + word.length, beginsSentence: before.trim() === '' || (SENTENCE_END.test(before) && !ABBREVIATION.test(before)) }
  })
}

/** Characters before a word that are looked at for the end of a sentence. */
const LOOK_BACK = 16

/** What rules need to know of a whole data set: how often words come, and which are names. */
export class WordStatistics {
  readonly #counts = new Map<string, number>()
  readonly #names = new Set<string>()
  #total = 0

  /** Counts the words of a text. */
  add (text: string): void {
    for (const place of wordsOf(text)) {
      const key = place.word.toLowerCase()
      this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
      this.#total++
      if (!place.beginsSentence && isCapitalised(place.word)) this.#names.add(place.word)
    }
  }

  /** Words counted. */
  get total (): number { return this.#total }

  /** The share of all words that this one makes up, in any case. */
  shareOf (word: string): number {
    return this.#total === 0 ? 0 : (this.#counts.get(word.toLowerCase()) ?? 0) / this.#total
  }

  /** Whether a word stands with a capital where no sentence begins. */
  isName (word: string): boolean {
    return this.#names.has(word)
  }
}

/**
 * Parses what `--withhold` says: kinds, `rare:SHARE` and names of files, separated by commas. `readFile` returns a file's text. Throws
 * UsageError.
 */
export async function parseWithholding (text: string, readFile: (path: string) => Promise<string>): Promise<WithholdRule[]> {
  const rules: WithholdRule[] = []
  for (const part of text.split(',').map((item) => item.trim())) {
    const kind = withholdKinds.find((name) => name === part)
    if (part === '') throw new UsageError('a rule for what to withhold is empty', `give ${withholdKinds.join(', ')}, rare:SHARE or a file`)
    if (kind !== undefined) rules.push({ kind })
    else if (part.startsWith('rare:')) rules.push({ kind: 'rare', share: shareOf(part.slice('rare:'.length)) })
    else rules.push(parseList(await readFile(part), part))
  }
  return rules
}

/** Parses a file of words, one a line. A line between slashes is a pattern for whole words; one that begins with # is a remark. */
export function parseList (text: string, name: string): WithholdRule {
  if (text.length > MAX_WITHHOLD_FILE_CHARACTERS)
    throw new UsageError(`${name} has ${text.length} characters, and a list of words ${MAX_WITHHOLD_FILE_CHARACTERS} at most`, 'shorten it')
  const words = new Set<string>()
  const patterns: RegExp[] = []
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const entry = line.trim()
    if (entry === '' || entry.startsWith('#')) continue
    if (entry.length > 2 && entry.startsWith('/') && entry.endsWith('/')) patterns.push(patternOf(entry.slice(1, -1), `${name}, line ${index + 1}`))
    // A name of several words withholds each of them.
    else for (const { word } of wordsOf(entry)) words.add(word.toLowerCase())
  }
  if (words.size + patterns.length === 0) throw new UsageError(`${name} names no word`, 'write a word, or a pattern between slashes, on each line')
  return { kind: 'list', words, patterns }
}

/** Marks the tokens of a text, given as their texts one after another, that hold a piece of a word that one of these rules withholds. */
export function withheldTokens (texts: readonly string[], rules: readonly WithholdRule[], statistics: WordStatistics): boolean[] {
  return tokensOf(texts, wordsOf(texts.join('')).filter((place) => rules.some((rule) => isWithheld(place, rule, statistics))))
}

/** What becomes of a token: it is sent, it never is, or what comes after it decides. */
export type TokenFate = 'sent' | 'withheld' | 'waits'

/** What becomes of the tokens of a text that may go on. */
export interface Judged {
  readonly fates: readonly TokenFate[]
  /** The first token of a word that may go on; the number of tokens where there is none. Tokens before it need not be judged again. */
  readonly openFrom: number
}

/**
 * Judges the tokens of a text that may go on, given as their texts one after another, by rules for texts without a data set. Its last word
 * may not be whole: it is withheld where what there is of it says so, waits where what follows may say so, and is sent otherwise. A number
 * is known by its first digit: letters before it in one word are sent.
 */
export function judgeTokens (texts: readonly string[], rules: readonly WithholdRule[]): Judged {
  const text = texts.join('')
  const places = wordsOf(text)
  const open = openWord(text, places)
  const whole = open === undefined ? places : places.slice(0, -1)
  const marked = whole.filter((place) => rules.some((rule) => isWithheld(place, rule, NO_STATISTICS)))
  const openFate = open === undefined ? 'sent' : fateOf(open.word, rules)
  const marks = tokensOf(texts, open !== undefined && openFate === 'withheld' ? [...marked, open] : marked)
  const openFrom = open === undefined ? texts.length : firstReaching(texts, open.start)
  // A character that is not whole may turn out to be a letter.
  const whereBroken = texts.length - (text.endsWith('\ufffd') ? trailingPieces(texts) : 0)
  const waitsFrom = Math.min(openFate === 'waits' ? openFrom : texts.length, whereBroken)
  return {
    fates: marks.map((isMarked, i) => i >= waitsFrom ? 'waits' : isMarked ? 'withheld' : 'sent'),
    openFrom: Math.min(openFrom, whereBroken)
  }
}

/**
 * Returns rules for texts without a data set: every capitalised word may be a name. Throws UsageError for a rule that needs the words of a
 * data set to be counted.
 */
export function rulesWithoutData (rules: readonly WithholdRule[]): WithholdRule[] {
  return rules.map((rule) => {
    if (rule.kind === 'rare')
      throw new UsageError('rare:SHARE needs data whose words are counted', 'give names, numbers, capitals or a list of words')
    return rule.kind === 'names' ? { kind: 'capitals' } : rule
  })
}

/** Marks the tokens of a text that hold a piece of any word. */
export function wordTokens (texts: readonly string[]): boolean[] {
  return tokensOf(texts, wordsOf(texts.join('')))
}

/** Marks the tokens that hold a piece of one of these words, which are in order. */
function tokensOf (texts: readonly string[], places: readonly WordPlace[]): boolean[] {
  let [start, next] = [0, 0]
  return texts.map((text) => {
    const end = start + text.length
    while (next < places.length && places[next]!.end <= start) next++
    const place = places[next]
    // A token without text is a part of the character that the token with its text ends.
    const isMarked = place !== undefined && (text === '' ? place.start <= start && start < place.end : place.start < end)
    start = end
    return isMarked
  })
}

/** A sign that a word may have within it. */
const JOINER = /^['’\-_@.,:/+]$/u

/** Returns the last word of a text where it may go on: it stands at the end, or a sign stands behind it that words have within. */
function openWord (text: string, places: readonly WordPlace[]): WordPlace | undefined {
  const last = places.at(-1)
  if (last === undefined) return undefined
  const rest = text.slice(last.end)
  return rest === '' || JOINER.test(rest) ? last : undefined
}

/** Judges a word that may go on. */
function fateOf (word: string, rules: readonly WithholdRule[]): TokenFate {
  const fates = rules.map((rule): TokenFate => {
    switch (rule.kind) {
      case 'numbers': return /\p{N}/u.test(word) ? 'withheld' : 'sent'
      case 'capitals': case 'names': return !/^\p{Lu}/u.test(word) ? 'sent' : PRONOUN.test(word) ? 'waits' : 'withheld'
      case 'rare': return 'waits'
      case 'list': return mayBecomeListed(word, rule) ? 'waits' : 'sent'
    }
  })
  return fates.includes('withheld') ? 'withheld' : fates.includes('waits') ? 'waits' : 'sent'
}

/** Whether a word that may go on may be one that a list withholds. */
function mayBecomeListed (word: string, { words, patterns }: Extract<WithholdRule, { kind: 'list' }>): boolean {
  if (patterns.length > 0) return true
  const prefixes = prefixesOf(words)
  const parts = partsOf(word)
  return prefixes.has(word.toLowerCase()) || prefixes.has(parts.at(-1)!) || parts.some((part) => words.has(part))
}

const knownPrefixes = new WeakMap<ReadonlySet<string>, ReadonlySet<string>>()

function prefixesOf (words: ReadonlySet<string>): ReadonlySet<string> {
  const known = knownPrefixes.get(words)
  if (known !== undefined) return known
  const prefixes = new Set<string>()
  for (const word of words) for (let length = 1; length <= word.length; length++) prefixes.add(word.slice(0, length))
  knownPrefixes.set(words, prefixes)
  return prefixes
}

/** Returns the first token that reaches beyond a position of the text. */
function firstReaching (texts: readonly string[], position: number): number {
  let end = 0
  const found = texts.findIndex((text) => (end += text.length) > position)
  return found < 0 ? texts.length : found
}

/** Returns how many tokens at the end are pieces of a character that is not whole: the one with the text, and those without before it. */
function trailingPieces (texts: readonly string[]): number {
  return texts.length - 1 - texts.findLastIndex((text, i) => text !== '' && i < texts.length - 1)
}

const NO_STATISTICS = new WordStatistics()

function isWithheld ({ word }: WordPlace, rule: WithholdRule, statistics: WordStatistics): boolean {
  switch (rule.kind) {
    case 'numbers': return /\p{N}/u.test(word)
    case 'capitals': return isCapitalised(word)
    case 'names': return isCapitalised(word) && statistics.isName(word)
    case 'rare': return statistics.shareOf(word) < rule.share
    case 'list': return rule.words.has(word.toLowerCase()) || partsOf(word).some((part) => rule.words.has(part)) ||
      rule.patterns.some((pattern) => linearPattern(pattern).test(word))
  }
}

/** The parts of a word with an apostrophe or a hyphen: `Lily's` is withheld where `Lily` is. */
function partsOf (word: string): string[] {
  return word.toLowerCase().split(/['’\-]/u)
}

function isCapitalised (word: string): boolean {
  return /^\p{Lu}/u.test(word) && !PRONOUN.test(word)
}

/** Returns a pattern for whole words that RE2 can match. Throws UsageError, naming where it stands. */
function patternOf (source: string, where: string): RegExp {
  try {
    const pattern = new RegExp(`^(?:${source})$`, 'iu')
    linearPattern(pattern)
    return pattern
  } catch (error) {
    throw new UsageError(`${where}: ${(error as Error).message}`, 'correct the pattern', error)
  }
}

const linearPatterns = new Map<string, LinearPattern>()

/** Returns what matches a pattern of a list in time that grows with the word alone. Throws SyntaxError where RE2 cannot. */
function linearPattern (pattern: RegExp): LinearPattern {
  const known = linearPatterns.get(pattern.source)
  if (known !== undefined) return known
  const linear = LinearPattern.from(pattern)
  if (linear === undefined)
    throw new SyntaxError(`${pattern.source} has what the engine RE2 does not have, such as lookahead or references to groups`)
  linearPatterns.set(pattern.source, linear)
  return linear
}

function shareOf (text: string): number {
  const [, digits, percent] = /^(\d+\.?\d*|\.\d+)\s*(%?)$/.exec(text.trim()) ?? []
  const share = digits === undefined ? NaN : Number(digits) / (percent === '%' ? 100 : 1)
  if (!(share > 0 && share <= 1)) throw new UsageError(`rare:${text} is not a share of the words`, 'give a share such as rare:0.1%')
  return share
}
