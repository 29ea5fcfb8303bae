import * as jinja from '@huggingface/jinja'
import { TemplateError } from './values.ts'

/** The part of a syntax tree that the interpreter reads; `type` tells which fields a node has. */
export interface Node {
  readonly type: string
  readonly [field: string]: unknown
}

/** The library's tokens: their text and kind. */
interface Token {
  readonly value: string
  readonly type: string
}

/** The loop variable that stands for a `with` block: a loop of one step that is no loop to its body. */
export const WITH_SCOPE = '__with__'

/** The filter that stands for transformers' `generation` tag. */
export const GENERATION = '__generation__'

/** The filter that stands for a test with an argument. */
export const TEST_PREFIX = '__test__'

/** What is used of the library, whose published declarations do not resolve under Node's module rules. */
const { parse, tokenize } = jinja as unknown as {
  readonly parse: (tokens: readonly Token[]) => Node
  readonly tokenize: (source: string, settings: { trim_blocks: boolean, lstrip_blocks: boolean }) => Token[]
}

/**
 * Parses a template with the settings of transformers (`trim_blocks`, `lstrip_blocks`). What the library's parser lacks (`raw`, `with`,
 * `generation`, tests with an argument) is written in terms of what it has. Throws for what is no template, and TemplateError for what the
 * library would read otherwise than Jinja.
 */
export function parseTemplate (source: string): Node {
  const rewritten = rewriteTags(source.replace(/\r\n?/g, '\n').replace(/\n$/, ''))
  // The library leaves out a line end at the end.
  const tokens = tokenize(`${rewritten}\n`, { trim_blocks: false, lstrip_blocks: false })
  return parse(withTests(checked(tokens)))
}

/** Python's white space, as its regular expressions know it. */
const SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
const spaceAtStart = new RegExp(`^${SPACE}*`)
const spaceAtEnd = new RegExp(`${SPACE}*$`)
const spaceOnly = new RegExp(`^${SPACE}*$`)
const openings = /\{[{%#]/g
const rawOpening = new RegExp(`^\\{%[-+]?${SPACE}*raw${SPACE}*(-?)%\\}`)
const rawClosing = new RegExp(`\\{%([-+]?)${SPACE}*endraw${SPACE}*([-+]?)%\\}`)
const commentClosing = /[-+]?#\}/

/**
 * Writes a template without signs of white space control: what they, `trim_blocks` and `lstrip_blocks` leave out of its texts is left out.
 * Writes blocks that the library does not know as blocks that it knows.
 */
function rewriteTags (source: string): string {
  const out: string[] = []
  let at = 0
  // Whether the text before a tag begins on a line of its own.
  let lineStarts = true
  /** Writes the text up to a tag, of which white space is left out as the sign of the tag says. */
  const writeText = (end: number, sign: string, isBlock: boolean): void => {
    let text = source.slice(at, end)
    const line = text.lastIndexOf('\n') + 1
    if (sign === '-') text = text.slice(0, spaceAtEnd.exec(text)!.index)
    else if (sign !== '+' && isBlock && (line > 0 || lineStarts) && spaceOnly.test(text.slice(line))) text = text.slice(0, line)
    out.push(text)
  }
  /** Goes on behind a tag, leaving out what its sign says. */
  const goOn = (end: number, sign: string, isBlock: boolean): void => {
    at = end
    if (sign === '-') at += spaceAtStart.exec(source.slice(at))![0].length
    else if (sign !== '+' && isBlock && source[at] === '\n') at++
    lineStarts = at > end && source[at - 1] === '\n'
  }
  for (;;) {
    openings.lastIndex = at
    const start = openings.exec(source)?.index
    if (start === undefined) break
    const kind = source[start + 1]
    const sign = /[-+]/.exec(source[start + 2] ?? '')?.[0] ?? ''
    const raw = rawOpening.exec(source.slice(start))
    if (raw !== null) {
      writeText(start, sign, true)
      goOn(start + raw[0].length, raw[1]!, false)
      const closing = rawClosing.exec(source.slice(at))
      if (closing === null) throw new TemplateError('a block of raw text does not end')
      const from = out.length
      const end = at + closing.index
      writeText(end, closing[1]!, true)
      out.push(`{{ ${literal(out.splice(from).join(''))} }}`)
      goOn(end + closing[0].length, closing[2]!, true)
    } else if (kind === '#') {
      const closing = commentClosing.exec(source.slice(start + 2))
      if (closing === null) throw new TemplateError('a comment does not end')
      writeText(start, sign, true)
      // Text on both sides of a comment is not one text, in which a tag could begin.
      out.push('{##}')
      const end = start + 2 + closing.index + closing[0].length
      goOn(end, closing[0].slice(0, -2), true)
    } else {
      const isBlock = kind === '%'
      const { end, sign: endSign, body } = tagAt(source, start, sign)
      writeText(start, sign, isBlock)
      out.push(isBlock ? knownBlock(body) : `{{ ${body} }}`)
      goOn(end, endSign, isBlock)
    }
  }
  out.push(source.slice(at))
  return out.join('')
}

const text = /'[^'\\]*(?:\\[^][^'\\]*)*'|"[^"\\]*(?:\\[^][^"\\]*)*"/y

/** Returns what stands in a tag, its end and the sign before that: where the tag's brackets are closed, outside of strings. */
function tagAt (source: string, start: number, sign: string): { readonly end: number, readonly sign: string, readonly body: string } {
  const closing = source[start + 1] === '%' ? '%}' : '}}'
  const from = start + 2 + sign.length
  let depth = 0
  for (let at = from; at < source.length; at++) {
    if (depth === 0) {
      const before = source[at] === '-' || (source[at] === '+' && closing === '%}') ? source[at]! : ''
      if (source.startsWith(closing, at + before.length))
        return { end: at + before.length + 2, sign: before, body: source.slice(from, at) }
    }
    text.lastIndex = at
    const skipped = text.exec(source)
    if (skipped !== null) at += skipped[0].length - 1
    else if ('([{'.includes(source[at]!)) depth++
    else if (')]}'.includes(source[at]!)) depth--
  }
  throw new TemplateError(`a tag that begins ${JSON.stringify(source.slice(start, start + 20))} does not end`)
}

/** Writes a block tag in terms of those that the library knows. */
function knownBlock (body: string): string {
  const [, name, rest] = new RegExp(`^${SPACE}*([A-Za-z_]*)([^]*)$`).exec(body)!
  switch (name) {
    case 'generation': return `{% filter ${GENERATION} %}`
    case 'endgeneration': return '{% endfilter %}'
    case 'endwith': return '{% endfor %}'
    case 'with': {
      const given = assignmentsOf(rest!)
      // All values are those outside the block.
      const sets = [
        ...given.map(({ value }, i) => `{% set ${WITH_SCOPE}${i} = ${value} %}`),
        ...given.map(({ name: variable }, i) => `{% set ${variable} = ${WITH_SCOPE}${i} %}`)
      ]
      return `{% for ${WITH_SCOPE} in [0] %}${sets.join('')}`
    }
    default: return `{%${body}%}`
  }
}

function literal (value: string): string {
  return `'${value.replace(/[\\']/g, '\\$&').replaceAll('\n', '\\n')}'`
}

/** Returns the assignments of a `with` tag. Throws where they are no names with values. */
function assignmentsOf (given: string): Array<{ name: string, value: string }> {
  if (given.trim() === '') return []
  return parts(given).map((part) => {
    const [, name, value] = /^\s*([A-Za-z_]\w*)\s*=([^=][^]*)$/.exec(part) ?? []
    if (name === undefined || value === undefined) throw new TemplateError(`the assignments of {% with${given}%} cannot be read`)
    return { name, value: value.trim() }
  })
}

/** Divides at the commas outside of strings and brackets. */
function parts (given: string): string[] {
  const found: string[] = []
  let [from, depth] = [0, 0]
  for (let at = 0; at < given.length; at++) {
    text.lastIndex = at
    const skipped = text.exec(given)
    if (skipped !== null) at += skipped[0].length - 1
    else if ('([{'.includes(given[at]!)) depth++
    else if (')]}'.includes(given[at]!)) depth--
    else if (given[at] === ',' && depth === 0) {
      found.push(given.slice(from, at))
      from = at + 1
    }
  }
  return [...found, given.slice(from)]
}

const comparisons = new Set(['in', 'is'])
const borders = new Set(['and', 'or', 'not', 'if', 'else', 'elif', 'set'])

/**
 * Refuses comparisons in a row (`a < b < c`): the library's parser takes the first two as one value, Jinja compares each pair.
 * Comparisons in parentheses are values to both.
 */
function checked (tokens: Token[]): Token[] {
  const counts = [0]
  tokens.forEach(({ type, value }, i) => {
    const before = tokens[i - 1]
    if (type === 'Identifier' && before?.type === 'NumericLiteral' && /^e\d*$/i.test(value))
      throw new TemplateError('numbers with an exponent are not read')
    if (/^Open(Paren|SquareBracket|CurlyBracket|Statement|Expression)$/.test(type)) counts.push(0)
    else if (/^Close/.test(type)) counts.pop()
    else if (type === 'Comma' || type === 'Colon' || type === 'Equals' || (type === 'Identifier' && borders.has(value) && before?.type !== 'Dot'))
      if (!(value === 'not' && (before?.value === 'is' || tokens[i + 1]?.value === 'in'))) counts[counts.length - 1] = 0
    const compares = type === 'ComparisonBinaryOperator' || (type === 'Identifier' && comparisons.has(value) && value === 'in' && before?.type !== 'Dot')
    if (!compares) return
    // The `in` of a loop is none of its expression.
    if (value === 'in' && inLoopHead(tokens, i)) return
    counts[counts.length - 1]! += 1
    if (counts.at(-1)! > 1) throw new TemplateError('comparisons in a row (a < b < c) are not read; use "and" between them')
  })
  return tokens
}

function inLoopHead (tokens: readonly Token[], at: number): boolean {
  let i = at - 1
  while (i >= 0 && ['Identifier', 'Comma', 'OpenParen', 'CloseParen'].includes(tokens[i]!.type) && tokens[i]!.value !== 'for') i--
  return tokens[i]?.value === 'for' && tokens[i - 1]?.type === 'OpenStatement'
}

/** Turns a test that has an argument, which the library's parser does not know, into a filter that the interpreter takes for the test. */
function withTests (tokens: Token[]): Token[] {
  const rewritten: Token[] = []
  const make = (type: string, value: string): Token => ({ type, value })
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!
    const negated = tokens[i + 1]?.value === 'not' && tokens[i + 1]?.type === 'Identifier'
    const name = tokens[i + (negated ? 2 : 1)]
    const next = tokens[i + (negated ? 3 : 2)]
    const isTest = token.type === 'Identifier' && token.value === 'is' && tokens[i - 1]?.type !== 'Dot' && name?.type === 'Identifier'
    const argument = next === undefined ? 0 : argumentLength(tokens, i + (negated ? 3 : 2))
    if (!isTest || argument === 0) {
      rewritten.push(token)
      continue
    }
    const filter = `${TEST_PREFIX}${negated ? 'not__' : ''}${name.value}`
    rewritten.push(make('Pipe', '|'), make('Identifier', filter))
    i += negated ? 2 : 1
    if (next!.type === 'OpenParen') continue
    rewritten.push(make('OpenParen', '('), ...tokens.slice(i + 1, i + 1 + argument), make('CloseParen', ')'))
    i += argument
    if (['Dot', 'OpenSquareBracket', 'OpenParen'].includes(tokens[i + 1]?.type ?? ''))
      throw new TemplateError(`the argument of "is ${name.value}" needs parentheses here`)
  }
  return rewritten
}

/** Returns how many tokens from `at` are the argument of a test: 0 where there is none. Only the bracket of a parenthesis is counted. */
function argumentLength (tokens: readonly Token[], at: number): number {
  const { type, value } = tokens[at]!
  if (type === 'OpenParen' || type === 'StringLiteral' || type === 'NumericLiteral') return 1
  if (type === 'Identifier') return borders.has(value) || comparisons.has(value) ? 0 : 1
  if (type !== 'OpenSquareBracket') return 0
  let depth = 0
  for (let end = at; end < tokens.length; end++) {
    if (tokens[end]!.type === 'OpenSquareBracket') depth++
    if (tokens[end]!.type === 'CloseSquareBracket' && --depth === 0) return end + 1 - at
  }
  return 0
}
