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
  const settings = { trim_blocks: true, lstrip_blocks: true }
  const tokens = tokenize(rewriteBlocks(source.replace(/\r\n?/g, '\n')), settings)
  return parse(withTests(checked(tokens)))
}

function rewriteBlocks (source: string): string {
  const raw = source.replace(
    /([ \t]*)\{%(-?)\s*raw\s*(-?)%\}([\s\S]*?)\{%(-?)\s*endraw\s*(-?)%\}(\n?)/g,
    (...[, space, left, trimStart, body, trimEnd, right, line]: string[]) => {
      const start = trimStart === '-' ? body!.trimStart() : body!
      // A block ends its line, as trim_blocks says; what prints a value does not.
      return `${space}{{${left} ${literal(trimEnd === '-' ? start.trimEnd() : start)} ${right}}}${right === '-' ? line : ''}`
    }
  )
  return raw
    .replace(/\{%(-?)\s*generation\s*(-?)%\}/g, `{%$1 filter ${GENERATION} $2%}`)
    .replace(/\{%(-?)\s*endgeneration\s*(-?)%\}/g, '{%$1 endfilter $2%}')
    .replace(/\{%(-?)\s*with(\s[^%]*?)?\s*(-?)%\}/g, (_, left, assignments: string | undefined, right) => {
      const scope = `{%${left} for ${WITH_SCOPE} in [0] -%}`
      const sets = assignmentsOf(assignments ?? '').map(({ name, value }) => `{%- set ${name} = ${value} -%}`).join('')
      return right === '-' ? `${scope}${sets}` : `${scope}${sets.replace(/-%\}$/, '%}')}`
    })
    .replace(/\{%(-?)\s*endwith\s*(-?)%\}/g, '{%$1 endfor $2%}')
}

function literal (text: string): string {
  return `'${text.replace(/[\\']/g, '\\$&').replaceAll('\n', '\\n')}'`
}

/** Returns the assignments of a `with` tag. Throws where they are more than names and values without a comma of their own. */
function assignmentsOf (text: string): Array<{ name: string, value: string }> {
  if (text.trim() === '') return []
  return text.split(/,(?![^([{]*[)\]}])/).map((part) => {
    const [, name, value] = /^\s*([A-Za-z_]\w*)\s*=([^=][\s\S]*)$/.exec(part) ?? []
    if (name === undefined || value === undefined) throw new TemplateError(`the assignments of {% with${text} %} cannot be read`)
    return { name, value: value.trim() }
  })
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
