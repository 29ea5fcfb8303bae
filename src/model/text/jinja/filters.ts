import { capitalized, isLower, isUpper, joined, lines, stringMethod, strip, wholeNumber } from './strings.ts'
import { concat, Text } from './text.ts'
import {
  Callable, compare, Dict, equal, Float, Generator, isTrue, itemsOf, lengthOf, List, Namespace, numberOf, orUndefined,
  TemplateError, toJson, toText, typeName,
  Undefined, View, type Arguments, type Value
} from './values.ts'

/** Looks an attribute up, as the interpreter does for `value.name`. */
export type Lookup = (value: Value, name: string | number) => Value

/** Decimal places that `round` is asked for, and those beyond them that tell whether a number lies in the middle of two. */
const MAX_PLACES = 20
const EXACT_PLACES = 60

type Filter = (value: Value, given: Arguments, lookup: Lookup) => Value

/** Returns the argument with this place or name; undefined where it is not given. */
function argument ({ positional, keyword }: Arguments, at: number, name: string): Value | undefined {
  return at < positional.length ? positional[at] : keyword.get(name)
}

/** Returns the value, or another where there is none: None is a value. */
function orElse (value: Value | undefined, otherwise: Value): Value {
  return value === undefined ? otherwise : value
}

/** Refuses arguments that a filter does not know, so that none is ignored. */
function checkArguments (filter: string, { positional, keyword }: Arguments, names: readonly string[]): void {
  if (positional.length > names.length) throw new TemplateError(`the filter ${filter} takes ${names.length} arguments at most`)
  for (const name of keyword.keys()) if (!names.includes(name)) throw new TemplateError(`the filter ${filter} takes no ${name}`)
}

function method (name: string): Filter {
  return (value, given) => stringMethod(toText(value), name)!.call(given)
}

/** The filters of Jinja, each with the names of its arguments. */
const filters: Readonly<Record<string, readonly [names: readonly string[], apply: Filter]>> = {
  safe: [[], () => {
    throw new TemplateError('the filter safe is read only where a value is printed: elsewhere it escapes what is joined to its text')
  }],
  string: [[], (value) => toText(value)],
  upper: [[], method('upper')],
  lower: [[], method('lower')],
  title: [[], (value) => titled(toText(value))],
  capitalize: [[], (value) => capitalized(toText(value))],
  trim: [['chars'], (value, given) => {
    const chars = argument(given, 0, 'chars') ?? null
    if (chars !== null && !(chars instanceof Text)) throw new TemplateError('trim takes characters')
    return strip(toText(value), chars?.value, true, true)
  }],
  replace: [['old', 'new', 'count'], (value, given) => {
    const [old, by, count = null] = [argument(given, 0, 'old'), argument(given, 1, 'new'), argument(given, 2, 'count')]
    if (old === undefined || by === undefined || !(count === null || typeof count === 'number'))
      throw new TemplateError('replace takes two texts and a number of times')
    return toText(value).replace(toText(old).value, toText(by), count === null || count < 0 ? Infinity : count)
  }],
  indent: [['width', 'first', 'blank'], indented],
  length: [[], (value) => lengthOf(value)],
  count: [[], (value) => lengthOf(value)],
  list: [[], (value) => new List(itemsOf(value))],
  first: [[], (value) => orUndefined(value instanceof Generator ? value.next() : itemsOf(value)[0], 'the first of no items')],
  last: [[], (value) => {
    if (value instanceof Generator) throw new TemplateError("'generator' object is not reversible")
    return orUndefined(itemsOf(value).at(-1), 'the last of no items')
  }],
  reverse: [[], (value) => {
    const items = [...itemsOf(value)].reverse()
    if (value instanceof Text) return concat(items as Text[])
    return value instanceof Generator ? new List(items) : new Generator(items)
  }],
  join: [['d', 'attribute'], (value, given, lookup) => {
    const attribute = argument(given, 1, 'attribute')
    const items = itemsOf(value).map((item) => attribute === undefined ? item : attributeOf(item, attribute, lookup))
    return joined(items, toText(argument(given, 0, 'd') ?? new Text('')))
  }],
  sort: [['reverse', 'case_sensitive', 'attribute'], (value, given, lookup) => {
    const order = ordering(given, 1, 2, lookup)
    const sign = isTrue(argument(given, 0, 'reverse') ?? false) ? -1 : 1
    return new List([...itemsOf(value)].sort((a, b) => sign * order(a, b)))
  }],
  unique: [['case_sensitive', 'attribute'], (value, given, lookup) => {
    const key = keyOf(given, 0, 1, lookup)
    const seen: Value[] = []
    return new Generator(itemsOf(value).filter((item) => {
      const found = key(item)
      if (seen.some((other) => equal(other, found))) return false
      seen.push(found)
      return true
    }))
  }],
  min: [['case_sensitive', 'attribute'], (value, given, lookup) => extreme(value, given, lookup, -1)],
  max: [['case_sensitive', 'attribute'], (value, given, lookup) => extreme(value, given, lookup, 1)],
  sum: [['attribute', 'start'], (value, given, lookup) => {
    const attribute = argument(given, 0, 'attribute')
    const numbers = [argument(given, 1, 'start') ?? 0, ...itemsOf(value).map((item) =>
      attribute === undefined || attribute === null ? item : attributeOf(item, attribute, lookup))]
    const total = numbers.reduce<number>((sum, item) => sum + needNumber(item), 0)
    return numbers.some((item) => item instanceof Float) ? new Float(total) : total
  }],
  map: [['filter', 'attribute', 'default', 'd'], (value, given, lookup) => {
    const attribute = given.keyword.get('attribute')
    if (attribute !== undefined) {
      const fallback = given.keyword.get('default')
      return new Generator(itemsOf(value).map((item) => {
        const found = attributeOf(item, attribute, lookup)
        return found instanceof Undefined && fallback !== undefined ? fallback : found
      }))
    }
    const [name, ...positional] = given.positional
    if (!(name instanceof Text)) throw new TemplateError('map takes an attribute or the name of a filter')
    return new Generator(itemsOf(value).map((item) => applyFilter(name.value, item, { positional, keyword: given.keyword }, lookup)))
  }],
  select: [['test', 'value'], (value, given) => chosen(value, given, true)],
  reject: [['test', 'value'], (value, given) => chosen(value, given, false)],
  selectattr: [['attribute', 'test', 'value'], (value, given, lookup) => chosenByAttribute(value, given, lookup, true)],
  rejectattr: [['attribute', 'test', 'value'], (value, given, lookup) => chosenByAttribute(value, given, lookup, false)],
  items: [[], (value) => {
    if (value instanceof Undefined) return new Generator([])
    return new Generator([...needDict(value).entries].map(([key, item]) => new List([new Text(key), item], true)))
  }],
  dictsort: [['case_sensitive', 'by', 'reverse'], (value, given) => {
    const at = toText(argument(given, 1, 'by') ?? new Text('key')).value === 'key' ? 0 : 1
    const exact = isTrue(argument(given, 0, 'case_sensitive') ?? false)
    const sign = isTrue(argument(given, 2, 'reverse') ?? false) ? -1 : 1
    const key = (pair: Value): Value => folded((pair as List).items[at]!, exact)
    const pairs = [...needDict(value).entries].map(([name, item]) => new List([new Text(name), item], true))
    return new List(pairs.sort((a, b) => sign * compare(key(a), key(b))))
  }],
  attr: [['name'], (value, given, lookup) => {
    const name = toText(orElse(argument(given, 0, 'name'), null)).value
    // A dict has items and no attributes but its methods.
    const found = lookup(value, name)
    return value instanceof Dict && !(found instanceof Callable && value.entries.get(name) !== found) ? new Undefined(name) : found
  }],
  abs: [[], (value) => value instanceof Float ? new Float(Math.abs(value.value)) : Math.abs(needNumber(value))],
  int: [['default', 'base'], (value, given) => {
    if (value instanceof Undefined) throw new TemplateError(`'${value.name}' is undefined`)
    if (argument(given, 1, 'base') !== undefined) throw new TemplateError('int takes no base here')
    const read = wholeNumber(value)
    if (read !== undefined) return read
    const float = value instanceof Text ? floatOf(value) : undefined
    return float !== undefined && Number.isFinite(float) ? Math.trunc(float) : orElse(argument(given, 0, 'default'), 0)
  }],
  float: [['default'], (value, given) => {
    if (value instanceof Undefined) throw new TemplateError(`'${value.name}' is undefined`)
    const read = value instanceof Text ? floatOf(value) : numberOf(value)
    return read === undefined ? orElse(argument(given, 0, 'default'), new Float(0)) : new Float(read)
  }],
  round: [['precision', 'method'], (value, given) => {
    const [places, way] = [needNumber(argument(given, 0, 'precision') ?? 0), toText(argument(given, 1, 'method') ?? new Text('common')).value]
    const number = needNumber(value)
    if (!Number.isInteger(places) || places < 0 || places > MAX_PLACES) throw new TemplateError(`round takes 0 to ${MAX_PLACES} places here`)
    if (way === 'common') return value instanceof Float ? new Float(rounded(number, places)) : number
    if (way !== 'ceil' && way !== 'floor') throw new TemplateError('method must be common, ceil or floor')
    const scale = 10 ** places
    return new Float((way === 'ceil' ? Math.ceil(number * scale) : Math.floor(number * scale)) / scale)
  }],
  default: [['default_value', 'boolean'], fallback],
  d: [['default_value', 'boolean'], fallback],
  tojson: [['ensure_ascii', 'indent', 'separators', 'sort_keys'], (value, given) => {
    const [indent, separators] = [argument(given, 1, 'indent') ?? null, argument(given, 2, 'separators') ?? null]
    const pair = separators === null ? undefined : itemsOf(separators).map((item) => toText(item).value)
    if (pair !== undefined && pair.length !== 2) throw new TemplateError('tojson takes two separators')
    const width = indent instanceof Text ? indent.value : indent === null ? undefined : ' '.repeat(Math.min(needNumber(indent), 32))
    return toJson(value, {
      indent: width,
      separators: pair as [string, string] | undefined,
      ensureAscii: isTrue(argument(given, 0, 'ensure_ascii') ?? false),
      sortKeys: isTrue(argument(given, 3, 'sort_keys') ?? false)
    })
  }],
  wordcount: [[], (value) => toText(value).value.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0],
  batch: [['linecount', 'fill_with'], (value, given) => {
    const size = needNumber(argument(given, 0, 'linecount') ?? 0)
    if (!(size >= 1)) throw new TemplateError('batch takes a count of at least 1')
    const items = itemsOf(value)
    const fill = argument(given, 1, 'fill_with') ?? null
    const groups: List[] = []
    for (let i = 0; i < items.length; i += size) {
      const group = items.slice(i, i + size)
      const missing = fill === null ? 0 : Math.min(size - group.length, 1000)
      groups.push(new List([...group, ...Array.from({ length: missing }, () => fill)]))
    }
    return new Generator(groups)
  }]
}

/** Applies a filter by its name. Throws TemplateError for a filter or an argument that is not known. */
export function applyFilter (name: string, value: Value, given: Arguments, lookup: Lookup): Value {
  const filter = Object.hasOwn(filters, name) ? filters[name] : undefined
  if (filter === undefined) throw new TemplateError(`the filter ${name} is not known`)
  const [names, apply] = filter
  if (name !== 'map' || given.keyword.has('attribute')) checkArguments(name, given, names)
  return apply(value, given, lookup)
}

type Test = (value: Value, ...given: Value[]) => boolean

const same: Test = (a, b) => equal(a, b)
const less = (holds: (order: number) => boolean): Test => (a, b) => holds(compare(a, b))

/** The tests of Jinja, by what follows `is`. */
const tests: Readonly<Record<string, readonly [count: number, test: Test]>> = {
  defined: [0, (value) => !(value instanceof Undefined)],
  undefined: [0, (value) => value instanceof Undefined],
  none: [0, (value) => value === null],
  boolean: [0, (value) => typeof value === 'boolean'],
  true: [0, (value) => value === true],
  false: [0, (value) => value === false],
  integer: [0, (value) => typeof value === 'number'],
  float: [0, (value) => value instanceof Float],
  number: [0, (value) => numberOf(value) !== undefined],
  string: [0, (value) => value instanceof Text],
  mapping: [0, (value) => value instanceof Dict],
  sequence: [0, isSequence],
  iterable: [0, (value) => isSequence(value) || value instanceof View || value instanceof Generator],
  callable: [0, (value) => value instanceof Callable],
  odd: [0, (value) => modulo(needNumber(value), 2) === 1],
  even: [0, (value) => modulo(needNumber(value), 2) === 0],
  lower: [0, (value) => isLower(toText(value).value)],
  upper: [0, (value) => isUpper(toText(value).value)],
  divisibleby: [1, (value, by) => modulo(needNumber(value), needNumber(by)) === 0],
  sameas: [1, (a, b) => a === b || (a instanceof Text && b instanceof Text && a.value === b.value)],
  in: [1, (value, within) => contains(within, value)],
  filter: [0, (value) => Object.hasOwn(filters, toText(value).value)],
  test: [0, (value) => Object.hasOwn(tests, toText(value).value)],
  equalto: [1, same],
  eq: [1, same],
  '==': [1, same],
  ne: [1, (a, b) => !equal(a, b)],
  '!=': [1, (a, b) => !equal(a, b)],
  lt: [1, less((order) => order < 0)],
  lessthan: [1, less((order) => order < 0)],
  '<': [1, less((order) => order < 0)],
  le: [1, less((order) => order <= 0)],
  '<=': [1, less((order) => order <= 0)],
  gt: [1, less((order) => order > 0)],
  greaterthan: [1, less((order) => order > 0)],
  '>': [1, less((order) => order > 0)],
  ge: [1, less((order) => order >= 0)],
  '>=': [1, less((order) => order >= 0)]
}

/** Applies a test by its name. Throws TemplateError for one that is not known, or other arguments than it takes. */
export function applyTest (name: string, value: Value, given: readonly Value[]): boolean {
  const found = Object.hasOwn(tests, name) ? tests[name] : undefined
  if (found === undefined) throw new TemplateError(`the test ${name} is not known`)
  const [count, test] = found
  if (given.length !== count) throw new TemplateError(`the test ${name} takes ${count} arguments`)
  return test(value, ...given)
}

function isSequence (value: Value): boolean {
  return value instanceof List || value instanceof Text || value instanceof Dict || value instanceof Undefined
}

/** Python's `in`. */
export function contains (container: Value, value: Value): boolean {
  if (container instanceof Text) {
    if (value instanceof Text) return container.value.includes(value.value)
    throw new TemplateError(`'in <string>' requires string as left operand, not ${typeName(value)}`)
  }
  if (container instanceof Dict) return value instanceof Text && container.entries.has(value.value)
  if (container instanceof Generator) {
    for (let item = container.next(); item !== undefined; item = container.next()) if (equal(item, value)) return true
    return false
  }
  return itemsOf(container).some((item) => equal(item, value))
}

/** Python's `%` of numbers, whose sign is that of the divisor. */
export function modulo (a: number, b: number): number {
  if (b === 0) throw new TemplateError('integer modulo by zero')
  return a - Math.floor(a / b) * b
}

function fallback (value: Value, given: Arguments): Value {
  const unless = isTrue(argument(given, 1, 'boolean') ?? false)
  return value instanceof Undefined || (unless && !isTrue(value)) ? orElse(argument(given, 0, 'default_value'), new Text('')) : value
}

function indented (value: Value, given: Arguments): Value {
  const [width, first, blank] = [argument(given, 0, 'width') ?? 4, argument(given, 1, 'first') ?? false, argument(given, 2, 'blank') ?? false]
  const space = width instanceof Text ? width : new Text(' '.repeat(Math.min(needNumber(width), 1000)))
  const text = toText(value)
  // Jinja adds a line end before it divides the text, so that one at the end is kept.
  const all = lines(concat([text, new Text('\n')]))
  const parts = all.map((line, i) => i === 0 ? line : line.length > 0 || isTrue(blank) ? concat([space, line]) : line)
  const body = joined(parts, new Text('\n'))
  return isTrue(first) ? concat([space, body]) : body
}

/** Jinja's filter, unlike `str.title`, begins words after white space and opening brackets and hyphens alone. */
function titled (text: Text): Text {
  return text.map((part) => part.split(/([-\s({[<]+)/u).map((word) => {
    const [first = '', ...rest] = Array.from(word)
    return first.toUpperCase() + rest.join('').toLowerCase()
  }).join(''))
}

function attributeOf (value: Value, attribute: Value, lookup: Lookup): Value {
  if (typeof attribute === 'number') return lookup(value, attribute)
  return toText(attribute).value.split('.').reduce((found, name) => lookup(found, /^\d+$/.test(name) ? Number(name) : name), value)
}

function chosen (value: Value, { positional: [name, ...rest] }: Arguments, keep: boolean): Generator {
  const holds = (item: Value): boolean => name === undefined ? isTrue(item) : applyTest(toText(name).value, item, rest)
  return new Generator(itemsOf(value).filter((item) => holds(item) === keep))
}

function chosenByAttribute (value: Value, { positional: [attribute, name, ...rest] }: Arguments, lookup: Lookup, keep: boolean): Generator {
  if (attribute === undefined) throw new TemplateError('selectattr and rejectattr take an attribute')
  return new Generator(itemsOf(value).filter((item) => {
    const found = attributeOf(item, attribute, lookup)
    return (name === undefined ? isTrue(found) : applyTest(toText(name).value, found, rest)) === keep
  }))
}

function keyOf (given: Arguments, caseAt: number, attributeAt: number, lookup: Lookup): (value: Value) => Value {
  const exact = isTrue(argument(given, caseAt, 'case_sensitive') ?? false)
  const attribute = argument(given, attributeAt, 'attribute') ?? null
  return (value) => folded(attribute === null ? value : attributeOf(value, attribute, lookup), exact)
}

function ordering (given: Arguments, caseAt: number, attributeAt: number, lookup: Lookup): (a: Value, b: Value) => number {
  const key = keyOf(given, caseAt, attributeAt, lookup)
  return (a, b) => compare(key(a), key(b))
}

function extreme (value: Value, given: Arguments, lookup: Lookup, sign: 1 | -1): Value {
  const order = ordering(given, 0, 1, lookup)
  const items = itemsOf(value)
  return items.length === 0
    ? new Undefined('no aggregated item, sequence was empty')
    : items.reduce((best, item) => sign * order(item, best) > 0 ? item : best)
}

function folded (value: Value, exact: boolean): Value {
  return value instanceof Text && !exact ? new Text(value.value.toLowerCase()) : value
}

function needNumber (value: Value): number {
  const number = numberOf(value)
  if (number === undefined) throw new TemplateError(`a number is needed, not ${typeName(value)}`)
  return number
}

function needDict (value: Value): Dict {
  if (value instanceof Dict) return value
  throw new TemplateError(`Can only get item pairs from a mapping, not from ${value instanceof Namespace ? 'a namespace' : typeName(value)}`)
}

function floatOf (text: Text): number | undefined {
  const value = strip(text, undefined, true, true).value
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value) ? Number(value) : undefined
}

/** Rounds to decimal places as Python does: by the exact value of the number, and to the even digit where two are as near. */
function rounded (value: number, places: number): number {
  if (!Number.isFinite(value) || Math.abs(value) >= 2 ** 53) return value
  const exact = Math.abs(value).toFixed(places + EXACT_PLACES)
  const nearest = Number(Math.abs(value).toFixed(places))
  if (!/^50*$/.test(exact.slice(exact.length - EXACT_PLACES))) return Math.sign(value) * nearest
  const below = exact.slice(0, exact.length - EXACT_PLACES).replace(/\.$/, '')
  return Math.sign(value) * (Number(below.at(-1)) % 2 === 0 ? Number(below) : nearest)
}
