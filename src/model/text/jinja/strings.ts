import { concat, Text } from './text.ts'
import {
  Callable, Dict, equal, Float, isTrue, itemsOf, lengthOf, List, TemplateError, toText, typeName, View, type Arguments, type Value
} from './values.ts'

/** What Python takes for white space. JavaScript's own set has U+FEFF and lacks U+001C to U+001F and U+0085. */
const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const spaceRun = new RegExp(`[${SPACE}]+`, 'g')
const spaceOnly = new RegExp(`^[${SPACE}]+$`)
const spaceCharacter = new RegExp(`[${SPACE}]`)

type Method = (text: Text, given: Arguments) => Value

/** The methods of a Python string that templates call. */
const methods: Readonly<Record<string, Method>> = {
  upper: (text) => text.map((part) => part.toUpperCase()),
  lower: (text) => text.map((part) => part.toLowerCase()),
  title: (text) => titled(text),
  capitalize: (text) => capitalized(text),
  strip: (text, given) => strip(text, charactersOf(given), true, true),
  lstrip: (text, given) => strip(text, charactersOf(given), true, false),
  rstrip: (text, given) => strip(text, charactersOf(given), false, true),
  split: (text, given) => new List(split(text, given)),
  rsplit: (text, given) => new List(rightSplit(text, given)),
  splitlines: (text, { positional: [keepEnds = false], keyword }) => new List(lines(text, isTrue(keyword.get('keepends') ?? keepEnds))),
  startswith: (text, given) => prefixes(given).some((prefix) => text.value.startsWith(prefix)),
  endswith: (text, given) => prefixes(given).some((suffix) => text.value.endsWith(suffix)),
  removeprefix: (text, given) => {
    const prefix = textArgument(given, 0)
    return text.value.startsWith(prefix.value) ? text.slice(prefix.length) : text
  },
  removesuffix: (text, given) => {
    const suffix = textArgument(given, 0)
    return suffix.length > 0 && text.value.endsWith(suffix.value) ? text.slice(0, text.length - suffix.length) : text
  },
  replace: (text, given) => {
    const count = given.positional[2] ?? given.keyword.get('count') ?? -1
    if (typeof count !== 'number') throw new TemplateError('replace() takes a whole number of times')
    return text.replace(textArgument(given, 0).value, textArgument(given, 1), count < 0 ? Infinity : count)
  },
  find: (text, given) => position(text, text.value.indexOf(textArgument(given, 0).value)),
  rfind: (text, given) => position(text, text.value.lastIndexOf(textArgument(given, 0).value)),
  index: (text, given) => {
    const found = text.value.indexOf(textArgument(given, 0).value)
    if (found < 0) throw new TemplateError('substring not found')
    return position(text, found)
  },
  count: (text, given) => {
    const part = textArgument(given, 0)
    return part.length === 0 ? lengthOf(text) + 1 : text.value.split(part.value).length - 1
  },
  join: (text, given) => {
    const items = itemsOf(given.positional[0] ?? null)
    const other = items.find((item) => !(item instanceof Text))
    if (other !== undefined) throw new TemplateError(`join() takes texts, not ${typeName(other)}`)
    return joined(items, text)
  },
  partition: (text, given) => divided(text, textArgument(given, 0), text.value.indexOf(textArgument(given, 0).value), false),
  rpartition: (text, given) => divided(text, textArgument(given, 0), text.value.lastIndexOf(textArgument(given, 0).value), true),
  isspace: (text) => spaceOnly.test(text.value),
  isdigit: (text) => /^[\p{Nd}\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089]+$/u.test(text.value),
  isnumeric: (text) => /^\p{N}+$/u.test(text.value),
  isdecimal: (text) => /^\p{Nd}+$/u.test(text.value),
  isalpha: (text) => /^\p{L}+$/u.test(text.value),
  isalnum: (text) => /^[\p{L}\p{N}]+$/u.test(text.value),
  isupper: (text) => isUpper(text.value),
  islower: (text) => isLower(text.value),
  zfill: (text, given) => {
    const width = given.positional[0]
    const missing = Math.min(typeof width === 'number' ? width : 0, 1000) - lengthOf(text)
    const signed = /^[+-]/.test(text.value) ? 1 : 0
    return missing <= 0 ? text : concat([text.slice(0, signed), new Text('0'.repeat(missing)), text.slice(signed)])
  },
  format: (text, given) => formatted(text, given)
}

/** How many arguments a method takes in order, where it takes some: further ones, such as where a search begins, are refused. */
const counts: Readonly<Record<string, number>> = {
  strip: 1, lstrip: 1, rstrip: 1, split: 2, rsplit: 2, splitlines: 1, startswith: 1, endswith: 1, removeprefix: 1, removesuffix: 1,
  replace: 3, find: 1, rfind: 1, index: 1, count: 1, join: 1, partition: 1, rpartition: 1, zfill: 1, format: Infinity
}

/** The arguments that a method takes by their names. */
const keywords: Readonly<Record<string, readonly string[]>> = {
  split: ['sep', 'maxsplit'], rsplit: ['sep', 'maxsplit'], splitlines: ['keepends'], replace: ['count']
}

/** Returns the method of a string by its name, bound to the string; undefined where Python's strings have none of that name. */
export function stringMethod (text: Text, name: string): Callable | undefined {
  const method = Object.hasOwn(methods, name) ? methods[name] : undefined
  return method === undefined ? undefined : new Callable(name, (given) => {
    if (given.positional.length > (counts[name] ?? 0)) throw new TemplateError(`${name}() takes ${counts[name] ?? 0} arguments at most here`)
    const unknown = name === 'format' ? undefined : [...given.keyword.keys()].find((key) => keywords[name]?.includes(key) !== true)
    if (unknown !== undefined) throw new TemplateError(`${name}() takes no ${unknown}`)
    return method(text, given)
  })
}

export function isUpper (value: string): boolean {
  return value === value.toUpperCase() && value !== value.toLowerCase()
}

export function isLower (value: string): boolean {
  return value === value.toLowerCase() && value !== value.toUpperCase()
}

/** Removes white space, or the given characters, from the chosen sides. */
export function strip (text: Text, characters: string | undefined, left: boolean, right: boolean): Text {
  const set = characters === undefined ? undefined : new Set(characters)
  const drops = (character: string): boolean => set === undefined ? spaceCharacter.test(character) : set.has(character)
  const points = Array.from(text.value)
  let [start, end] = [0, text.length]
  let [first, last] = [0, points.length]
  while (left && first < last && drops(points[first]!)) start += points[first++]!.length
  while (right && last > first && drops(points[last - 1]!)) end -= points[--last]!.length
  return text.slice(start, end)
}

/** Makes the first letter upper case and the others lower case. */
export function capitalized (text: Text): Text {
  const first = Array.from(text.value)[0]?.length ?? 0
  return concat([text.slice(0, first).map((part) => part.toUpperCase()), text.slice(first).map((part) => part.toLowerCase())])
}

/** Makes the first letter of each word upper case, as `str.title` finds words: runs of letters. */
function titled (text: Text): Text {
  return text.map((part) => part.replace(/\p{L}+/gu, (word) => {
    const [first = '', ...rest] = Array.from(word)
    return first.toUpperCase() + rest.join('').toLowerCase()
  }))
}

/** Returns the lines of a text as `str.splitlines` finds them, without their ends unless `keepEnds`. */
export function lines (text: Text, keepEnds = false): Text[] {
  const found: Text[] = []
  let start = 0
  for (const { 0: end, index } of text.value.matchAll(/\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]/g)) {
    found.push(text.slice(start, index + (keepEnds ? end.length : 0)))
    start = index + end.length
  }
  return start < text.length ? [...found, text.slice(start)] : found
}

/** Joins the printed items with a separator between them. */
export function joined (items: readonly Value[], separator: Text): Text {
  return concat(items.flatMap((item, i) => i === 0 ? [toText(item)] : [separator, toText(item)]))
}

function split (text: Text, given: Arguments): Text[] {
  const [separator, most] = splitArguments(given)
  return separator === undefined ? splitAtSpace(text, most) : splitAt(text, separator, most)
}

function rightSplit (text: Text, given: Arguments): Text[] {
  const [separator, most] = splitArguments(given)
  if (separator === undefined) {
    if (most === Infinity) return splitAtSpace(text, most)
    throw new TemplateError('rsplit() at white space with a limit is not known')
  }
  const all = splitAt(text, separator, Infinity)
  if (all.length <= most + 1) return all
  const kept = all.slice(all.length - most)
  const tail = kept.reduce((total, { length }) => total + length + separator.length, 0)
  return [text.slice(0, text.length - tail), ...kept]
}

function splitArguments ({ positional, keyword }: Arguments): [Text | undefined, number] {
  const separator = positional[0] ?? keyword.get('sep') ?? null
  const most = positional[1] ?? keyword.get('maxsplit') ?? -1
  if (!(separator === null || separator instanceof Text) || typeof most !== 'number')
    throw new TemplateError('split() takes a separator and a whole number')
  if (separator?.length === 0) throw new TemplateError('empty separator')
  return [separator ?? undefined, most < 0 ? Infinity : most]
}

function splitAtSpace (text: Text, most: number): Text[] {
  const parts: Text[] = []
  let start = 0
  for (const { 0: space, index } of text.value.matchAll(spaceRun)) {
    if (index > start) {
      if (parts.length === most) break
      parts.push(text.slice(start, index))
    }
    start = index + space.length
  }
  if (start < text.length) parts.push(parts.length === most ? text.slice(start) : strip(text.slice(start), undefined, false, true))
  return parts
}

function splitAt (text: Text, separator: Text, most: number): Text[] {
  const parts: Text[] = []
  let start = 0
  for (let found = text.value.indexOf(separator.value); found >= 0 && parts.length < most;) {
    parts.push(text.slice(start, found))
    start = found + separator.length
    found = text.value.indexOf(separator.value, start)
  }
  return [...parts, text.slice(start)]
}

function divided (text: Text, separator: Text, at: number, right: boolean): List {
  if (separator.length === 0) throw new TemplateError('empty separator')
  const none = new Text('')
  if (at < 0) return new List(right ? [none, none, text] : [text, none, none], true)
  return new List([text.slice(0, at), separator, text.slice(at + separator.length)], true)
}

/** Fills `{}`, `{0}` and `{name}`. Throws for every other format. */
function formatted (text: Text, { positional, keyword }: Arguments): Text {
  const parts: Text[] = []
  let [at, next] = [0, 0]
  for (const { 0: field, index } of text.value.matchAll(/\{\{|\}\}|\{[^{}]*\}/g)) {
    parts.push(text.slice(at, index))
    at = index + field.length
    const name = field.slice(1, -1)
    if (field === '{{' || field === '}}') {
      parts.push(new Text(field[0]!))
      continue
    }
    const value = name === '' ? positional[next++] : /^\d+$/.test(name) ? positional[Number(name)] : keyword.get(name)
    if (value === undefined) throw new TemplateError(`format() does not know ${field}`)
    parts.push(toText(value))
  }
  return concat([...parts, text.slice(at)])
}

function position (text: Text, unit: number): number {
  return unit < 0 ? -1 : Array.from(text.value.slice(0, unit)).length
}

function charactersOf ({ positional, keyword }: Arguments): string | undefined {
  const characters = positional[0] ?? keyword.get('chars') ?? null
  if (characters === null) return undefined
  if (characters instanceof Text) return characters.value
  throw new TemplateError(`strip arg must be None or str, not ${typeName(characters)}`)
}

function prefixes ({ positional }: Arguments): string[] {
  if (positional.length !== 1) throw new TemplateError('startswith() and endswith() take one argument here')
  const [prefix] = positional
  const options = prefix instanceof List ? prefix.items : [prefix!]
  return options.map((option) => {
    if (option instanceof Text) return option.value
    throw new TemplateError(`startswith() and endswith() take a str or a tuple of str, not ${typeName(option)}`)
  })
}

function textArgument ({ positional }: Arguments, at: number): Text {
  const value = positional[at]
  if (value instanceof Text) return value
  throw new TemplateError(`a str is needed, not ${value === undefined ? 'nothing' : typeName(value)}`)
}

/**
 * Returns the methods of dictionaries and lists; undefined where there is none of that name. Those that would change the value are refused.
 */
export function collectionMethod (value: Dict | List, name: string): Callable | undefined {
  const of = (call: (given: Arguments) => Value): Callable => new Callable(name, call)
  const refused = (): Callable => of(() => {
    throw new TemplateError(`access to attribute '${name}' is unsafe: a template may not change a ${typeName(value)}`)
  })
  if (value instanceof Dict) {
    const { entries } = value
    switch (name) {
      case 'get': return of(({ positional: [key, fallback = null] }) => {
        const found = key instanceof Text ? entries.get(key.value) : undefined
        return found === undefined ? fallback : found
      })
      case 'items': return of(() => new View([...entries].map(([key, item]) => new List([new Text(key), item], true))))
      case 'keys': return of(() => new View([...entries.keys()].map((key) => new Text(key))))
      case 'values': return of(() => new View([...entries.values()]))
      case 'copy': return of(() => value)
      case 'clear': case 'pop': case 'popitem': case 'setdefault': case 'update': return refused()
      default: return undefined
    }
  }
  switch (name) {
    case 'append': case 'clear': case 'extend': case 'insert': case 'pop': case 'remove': case 'reverse': case 'sort':
      return value.isTuple ? undefined : refused()
    case 'copy': return typeName(value) === 'list' ? of(() => value) : undefined
    case 'count': return of(({ positional: [searched = null] }) => value.items.filter((item) => equal(item, searched)).length)
    case 'index': return of(({ positional: [searched = null] }) => {
      const found = value.items.findIndex((item) => equal(item, searched))
      if (found < 0) throw new TemplateError('the value is not in the list')
      return found
    })
    default: return undefined
  }
}

/** Returns the whole number that Python's `int()` reads, or undefined. */
export function wholeNumber (value: Value): number | undefined {
  if (value instanceof Float) return Number.isFinite(value.value) ? Math.trunc(value.value) : undefined
  if (typeof value === 'number' || typeof value === 'boolean') return Number(value)
  if (!(value instanceof Text)) return undefined
  const text = strip(value, undefined, true, true).value
  return /^[+-]?\d+(_\d+)*$/.test(text) ? Number(text.replaceAll('_', '')) : undefined
}
