import { concat, Text } from './text.ts'

/** What a template may not do, or what Midspan does not do as Jinja does. */
export class TemplateError extends Error {}

/** A name or attribute that does not exist. */
export class Undefined {
  readonly name: string

  constructor (name: string) {
    this.name = name
  }
}

/** A Python float, which prints otherwise than an integer. */
export class Float {
  readonly value: number

  constructor (value: number) {
    this.value = value
  }
}

export class List {
  readonly items: readonly Value[]
  readonly isTuple: boolean
  /** What is printed in place of the items: of a range, how it was made; empty for a part of a range. Undefined for what is no range. */
  readonly printed: string | undefined

  constructor (items: readonly Value[], isTuple = false, printed?: string) {
    this.items = items
    this.isTuple = isTuple
    this.printed = printed
  }
}

export class Dict {
  readonly entries: ReadonlyMap<string, Value>

  constructor (entries: ReadonlyMap<string, Value>) {
    this.entries = entries
  }
}

/** What `keys()`, `values()` and `items()` of a dict give: items without places, so that none can be looked up by its number. */
export class View {
  readonly items: readonly Value[]

  constructor (items: readonly Value[]) {
    this.items = items
  }
}

/** What filters such as `map` and `select` give: items that are there once, true even where there are none, and without a length. */
export class Generator {
  readonly #items: readonly Value[]
  #taken = 0

  constructor (items: readonly Value[]) {
    this.#items = items
  }

  /** Takes the next item; undefined after the last. */
  next (): Value | undefined {
    return this.#items[this.#taken++]
  }

  /** Takes the items that are left. */
  rest (): Value[] {
    const left = this.#items.slice(this.#taken)
    this.#taken = this.#items.length
    return left
  }
}

/** What `namespace()` makes: the one value that a template can change. */
export class Namespace {
  readonly entries: Map<string, Value>

  constructor (entries: Map<string, Value>) {
    this.entries = entries
  }
}

export type Arguments = Readonly<{ positional: readonly Value[], keyword: ReadonlyMap<string, Value> }>

export class Callable {
  readonly name: string
  readonly call: (given: Arguments) => Value

  constructor (name: string, call: (given: Arguments) => Value) {
    this.name = name
    this.call = call
  }
}

/** A value of a template. A number is an integer. */
export type Value = Undefined | null | boolean | number | Float | Text | List | Dict | View | Generator | Namespace | Callable

/** Returns the value, or an undefined one of this name where there is none. */
export function orUndefined (value: Value | undefined, name: string): Value {
  return value === undefined ? new Undefined(name) : value
}

/** How deep values may be nested where a function descends into them. */
const MAX_DEPTH = 100

/** Python's name of a value's type, for messages. */
export function typeName (value: Value): string {
  if (value === null) return 'None'
  if (typeof value === 'boolean') return 'bool'
  if (typeof value === 'number') return 'int'
  if (value instanceof Text) return 'str'
  if (value instanceof List) return value.printed !== undefined ? 'range' : value.isTuple ? 'tuple' : 'list'
  return value.constructor.name.toLowerCase()
}

export function isTrue (value: Value): boolean {
  if (value instanceof Text) return value.length > 0
  if (value instanceof Float) return value.value !== 0
  if (value instanceof List || value instanceof View) return value.items.length > 0
  if (value instanceof Dict) return value.entries.size > 0
  if (value instanceof Undefined) return false
  return typeof value === 'object' ? value !== null : Boolean(value)
}

/** Returns the value as a number where Python takes it for one; undefined for every other. */
export function numberOf (value: Value): number | undefined {
  if (value instanceof Float) return value.value
  return typeof value === 'number' || typeof value === 'boolean' ? Number(value) : undefined
}

/** Python's `==`. */
export function equal (a: Value, b: Value, depth = 0): boolean {
  checkDepth(depth)
  const [x, y] = [numberOf(a), numberOf(b)]
  if (x !== undefined && y !== undefined) return x === y
  if (a instanceof Text && b instanceof Text) return a.value === b.value
  if (a instanceof List && b instanceof List)
    return typeName(a) === typeName(b) && a.items.length === b.items.length &&
      a.items.every((item, i) => equal(item, b.items[i]!, depth + 1))
  if (a instanceof Dict && b instanceof Dict)
    return a.entries.size === b.entries.size &&
      [...a.entries].every(([key, value]) => b.entries.has(key) && equal(value, b.entries.get(key)!, depth + 1))
  if (a instanceof Undefined && b instanceof Undefined) return true
  return a === b
}

/** Returns a number below, equal to or above 0 as Python orders the two. Throws where it does not order them. */
export function compare (a: Value, b: Value, depth = 0): number {
  checkDepth(depth)
  const [x, y] = [numberOf(a), numberOf(b)]
  if (x !== undefined && y !== undefined) return x - y
  if (a instanceof Text && b instanceof Text) return compareText(a.value, b.value)
  if (a instanceof List && b instanceof List) {
    const unlike = a.items.findIndex((item, i) => i >= b.items.length || !equal(item, b.items[i]!, depth + 1))
    if (unlike < 0) return a.items.length - b.items.length
    return unlike >= b.items.length ? 1 : compare(a.items[unlike]!, b.items[unlike]!, depth + 1)
  }
  throw new TemplateError(`'<' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`)
}

/** Orders by code points, as Python does. */
function compareText (a: string, b: string): number {
  const [x, y] = [Array.from(a), Array.from(b)]
  for (let i = 0; i < x.length && i < y.length; i++) {
    const difference = x[i]!.codePointAt(0)! - y[i]!.codePointAt(0)!
    if (difference !== 0) return difference
  }
  return x.length - y.length
}

/** Python's `str()`: what a template prints. */
export function toText (value: Value): Text {
  if (value instanceof Text) return value
  if (value instanceof Undefined) return new Text('')
  return repr(value, 0)
}

/** Python's `repr()`. */
function repr (value: Value, depth: number): Text {
  checkDepth(depth)
  if (value === null) return new Text('None')
  if (value === true) return new Text('True')
  if (value === false) return new Text('False')
  if (typeof value === 'number') return new Text(String(value))
  if (value instanceof Float) return new Text(floatText(value.value))
  if (value instanceof Text) return quoted(value)
  if (value instanceof Undefined) return new Text('Undefined')
  if (value instanceof List && value.printed !== undefined && value.printed !== '') return new Text(value.printed)
  if (value instanceof List && value.printed === '') throw new TemplateError('a part of a range cannot be printed')
  if (value instanceof List) {
    const items = separated(value.items.map((item) => repr(item, depth + 1)))
    const end = value.isTuple ? (value.items.length === 1 ? ',)' : ')') : ']'
    return concat([new Text(value.isTuple ? '(' : '['), items, new Text(end)])
  }
  if (value instanceof Dict) {
    const items = [...value.entries].map(([key, item]) => concat([quoted(new Text(key)), new Text(': '), repr(item, depth + 1)]))
    return concat([new Text('{'), separated(items), new Text('}')])
  }
  throw new TemplateError(`a ${typeName(value)} cannot be printed`)
}

function separated (items: readonly Text[], separator = ', '): Text {
  return concat(items.flatMap((item, i) => i === 0 ? [item] : [new Text(separator), item]))
}

function quoted (text: Text): Text {
  const quote = text.value.includes("'") && !text.value.includes('"') ? '"' : "'"
  const escapes: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t', [quote]: `\\${quote}` }
  const body = text.map((part) =>
    part.replace(/[\\\n\r\t'"]/g, (character) => escapes[character] ?? character)
      .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}\p{Cn}]|(?! )\p{Zs}/gu, unicodeEscape))
  return concat([new Text(quote), body, new Text(quote)])
}

function unicodeEscape (character: string): string {
  const code = character.codePointAt(0)!
  const hex = code.toString(16)
  return code < 0x100 ? `\\x${hex.padStart(2, '0')}` : code < 0x10000 ? `\\u${hex.padStart(4, '0')}` : `\\U${hex.padStart(8, '0')}`
}

function floatText (value: number): string {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value < 0 ? '-inf' : 'inf'
  if (Object.is(value, -0)) return '-0.0'
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) return value.toExponential().replace(/e([+-])(\d)$/, 'e$10$2')
  return Number.isInteger(value) ? value.toFixed(1) : String(value)
}

export interface JsonOptions {
  readonly indent?: string | undefined
  readonly separators?: readonly [string, string] | undefined
  readonly sortKeys?: boolean
  readonly ensureAscii?: boolean
}

/** Returns the value as Python's `json.dumps` writes it. */
export function toJson (value: Value, options: JsonOptions, depth = 0): Text {
  checkDepth(depth)
  if (value === null || typeof value === 'boolean') return new Text(String(value))
  if (typeof value === 'number') return new Text(String(value))
  if (value instanceof Float) return new Text(floatText(value.value).replace('nan', 'NaN').replace('inf', 'Infinity'))
  if (value instanceof Text) return jsonString(value, options)
  const [itemSeparator, keySeparator] = options.separators ?? [options.indent === undefined ? ', ' : ',', ': ']
  const within = (open: string, items: readonly Text[], close: string): Text => {
    if (options.indent === undefined || items.length === 0)
      return concat([new Text(open), separated(items, itemSeparator), new Text(close)])
    const line = `\n${options.indent.repeat(depth + 1)}`
    return concat([new Text(open + line), separated(items, itemSeparator + line), new Text(`\n${options.indent.repeat(depth)}${close}`)])
  }
  if (value instanceof List && value.printed === undefined) return within('[', value.items.map((item) => toJson(item, options, depth + 1)), ']')
  if (value instanceof Dict) {
    const entries = [...value.entries]
    if (options.sortKeys === true) entries.sort(([a], [b]) => compareText(a, b))
    return within('{', entries.map(([key, item]) =>
      concat([jsonString(new Text(key), options), new Text(keySeparator), toJson(item, options, depth + 1)])), '}')
  }
  throw new TemplateError(`Object of type ${typeName(value)} is not JSON serializable`)
}

function jsonString (text: Text, { ensureAscii = false }: JsonOptions): Text {
  const body = text.map((part) => {
    const escaped = JSON.stringify(part).slice(1, -1)
    return ensureAscii ? escaped.replace(/[\u007f-\uffff]/g, (unit) => unit === '\u007f' ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`) : escaped
  })
  return concat([new Text('"'), body, new Text('"')])
}

/** Returns the items that a loop over the value visits. Those of a generator are taken from it. */
export function itemsOf (value: Value): readonly Value[] {
  if (value instanceof List || value instanceof View) return value.items
  if (value instanceof Generator) return value.rest()
  if (value instanceof Dict) return [...value.entries.keys()].map((key) => new Text(key))
  if (value instanceof Text) return characters(value)
  if (value instanceof Undefined) return []
  throw new TemplateError(`'${typeName(value)}' object is not iterable`)
}

/** Returns the code points of a text, each with its origin. */
export function characters (text: Text): Text[] {
  let at = 0
  return Array.from(text.value, (character) => {
    const start = at
    at += character.length
    return text.slice(start, at)
  })
}

export function lengthOf (value: Value): number {
  if (value instanceof Text) return Array.from(value.value).length
  if (value instanceof List || value instanceof View) return value.items.length
  if (value instanceof Dict) return value.entries.size
  if (value instanceof Undefined) return 0
  throw new TemplateError(`object of type '${typeName(value)}' has no len()`)
}

function checkDepth (depth: number): void {
  if (depth > MAX_DEPTH) throw new TemplateError(`values are nested more than ${MAX_DEPTH} deep`)
}
