import { applyFilter, applyTest, contains, modulo } from './filters.ts'
import { GENERATION, TEST_PREFIX, WITH_SCOPE, type Node } from './source.ts'
import { collectionMethod, stringMethod } from './strings.ts'
import { concat, Text } from './text.ts'
import {
  Callable, compare, Dict, equal, Float, isTrue, itemsOf, List, Namespace, numberOf, orUndefined,
  TemplateError, toText, typeName, Undefined, type Arguments,
  type Value
} from './values.ts'

/** How much a render may produce and compute: far beyond any conversation, far below what fills the memory or takes minutes. */
const MAX_STEPS = 1_000_000
const MAX_CHARACTERS = 64 * 1024 * 1024
const MAX_RANGE = 100_000
const MAX_CALL_DEPTH = 100

/** The variables of a scope, found outwards. */
class Scope {
  readonly #parent: Scope | undefined
  readonly #variables = new Map<string, Value>()

  constructor (parent?: Scope) {
    this.#parent = parent
  }

  get (name: string): Value {
    const value = this.#variables.get(name)
    if (value !== undefined) return value
    return this.#parent === undefined ? new Undefined(name) : this.#parent.get(name)
  }

  set (name: string, value: Value): void {
    this.#variables.set(name, value)
  }
}

/** How a list of statements ended. */
type Flow = 'done' | 'break' | 'continue'

export interface Rendered {
  readonly text: Text
  /** The parts that `generation` blocks wrote, as [start, end). */
  readonly generated: ReadonlyArray<readonly [number, number]>
}

/** Marks where generation blocks wrote, by the same means as messages' fields. */
const generationSource = { message: -1, field: 'generation' }

/** Runs a parsed template. Throws TemplateError for what the template refuses, and for what is not done as Jinja does it. */
export function renderTemplate (program: Node, variables: Readonly<Record<string, Value>>, now: Date): Rendered {
  const scope = new Scope()
  for (const [name, value] of Object.entries({ ...globals(now), ...variables })) scope.set(name, value)
  const interpreter = new Interpreter()
  const parts: Text[] = []
  interpreter.run(program.body as Node[], scope, parts)
  const text = concat(parts)
  const own = text.marks.filter(({ source }) => source !== generationSource)
  const generated = text.marks.filter(({ source }) => source === generationSource)
  return { text: new Text(text.value, own), generated: generated.map(({ start, end }) => [start, end]) }
}

function globals (now: Date): Record<string, Value> {
  const of = (name: string, call: (given: Arguments) => Value): Callable => new Callable(name, call)
  return {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    raise_exception: of('raise_exception', ({ positional: [message] }) => {
      throw new TemplateError(message === undefined ? 'the template refuses them' : toText(message).value)
    }),
    range: of('range', ({ positional }) => range(positional.map(needInteger))),
    namespace: of('namespace', ({ positional: [first], keyword }) => {
      const given = first instanceof Dict ? first.entries : new Map<string, Value>()
      return new Namespace(new Map([...given, ...keyword]))
    }),
    dict: of('dict', ({ positional: [first], keyword }) => new Dict(new Map([...(first instanceof Dict ? first.entries : []), ...keyword]))),
    strftime_now: of('strftime_now', ({ positional: [format] }) => new Text(formatTime(now, toText(format ?? new Text('')).value)))
  }
}

class Interpreter {
  #steps = 0
  #characters = 0
  #depth = 0

  /** Runs statements, adding what they print to `out`. */
  run (statements: readonly Node[], scope: Scope, out: Text[]): Flow {
    for (const statement of statements) {
      this.#step()
      const flow = this.#statement(statement, scope, out)
      if (flow !== 'done') return flow
    }
    return 'done'
  }

  #step (): void {
    if (++this.#steps > MAX_STEPS) throw new TemplateError('it takes too many steps')
  }

  /** Counts the characters of a new text, so that no template fills the memory. */
  #counted<T extends Value> (value: T): T {
    if (value instanceof Text && (this.#characters += value.length) > MAX_CHARACTERS) throw new TemplateError('it writes too much text')
    return value
  }

  #statement (node: Node, scope: Scope, out: Text[]): Flow {
    switch (node.type) {
      case 'Comment': return 'done'
      case 'Break': return 'break'
      case 'Continue': return 'continue'
      case 'If': return this.run((isTrue(this.#evaluate(node.test as Node, scope)) ? node.body : node.alternate) as Node[], scope, out)
      case 'For': return this.#for(node, scope, out)
      case 'Set':
        this.#set(node, scope)
        return 'done'
      case 'Macro':
        scope.set((node.name as Node).value as string, this.#macro(node, node.args as Node[], scope))
        return 'done'
      case 'CallStatement': {
        const call = node.call as Node
        const given = this.#arguments(call.args as Node[], scope)
        const caller = this.#macro(node, (node.callerArgs ?? []) as Node[], scope)
        const { positional, keyword } = given
        out.push(toText(this.#call(this.#evaluate(call.callee as Node, scope), { positional, keyword: new Map([...keyword, ['caller', caller]]) })))
        return 'done'
      }
      case 'FilterStatement': {
        const body = this.#block(node.body as Node[], new Scope(scope))
        const filter = node.filter as Node
        if (filter.type === 'Identifier' && filter.value === GENERATION) {
          const mark = { start: 0, end: body.length, source: generationSource }
          out.push(new Text(body.value, [...body.marks, mark].sort((a, b) => a.start - b.start)))
        } else out.push(toText(this.#filter(body, filter, scope)))
        return 'done'
      }
      case 'Program': return this.run(node.body as Node[], scope, out)
      default: {
        const text = this.#counted(toText(this.#evaluate(withoutSafe(node), scope)))
        out.push(text)
        return 'done'
      }
    }
  }

  /** Runs statements and returns what they print. */
  #block (statements: readonly Node[], scope: Scope): Text {
    const parts: Text[] = []
    if (this.run(statements, scope, parts) !== 'done') throw new TemplateError('break and continue leave no block, macro or filter')
    return this.#counted(concat(parts))
  }

  #for (node: Node, scope: Scope, out: Text[]): Flow {
    const target = node.loopvar as Node
    if (target.type === 'Identifier' && target.value === WITH_SCOPE) return this.run(node.body as Node[], new Scope(scope), out)
    const iterable = node.iterable as Node
    const selects = iterable.type === 'SelectExpression'
    let items = itemsOf(this.#evaluate((selects ? iterable.lhs : iterable) as Node, scope))
    if (selects)
      items = items.filter((item) => {
        this.#step()
        const inner = new Scope(scope)
        assign(target, item, inner)
        return isTrue(this.#evaluate(iterable.test as Node, inner))
      })
    if (items.length === 0) return this.run(node.defaultBlock as Node[], new Scope(scope), out)
    let last: Value | undefined
    for (const [i, item] of items.entries()) {
      this.#step()
      const inner = new Scope(scope)
      inner.set('loop', loopOf(items, i, (value) => {
        const changed = last === undefined || !equal(last, value)
        last = value
        return changed
      }))
      assign(target, item, inner)
      if (this.run(node.body as Node[], inner, out) === 'break') break
    }
    return 'done'
  }

  #set (node: Node, scope: Scope): void {
    const value = node.value === null || node.value === undefined
      ? this.#block(node.body as Node[], new Scope(scope))
      : this.#evaluate(node.value as Node, scope)
    const target = node.assignee as Node
    if (target.type !== 'MemberExpression') return assign(target, value, scope)
    const object = this.#evaluate(target.object as Node, scope)
    if (!(object instanceof Namespace)) throw new TemplateError('cannot assign attribute on non-namespace object')
    object.entries.set((target.property as Node).value as string, value)
  }

  #macro (node: Node, parameters: readonly Node[], scope: Scope): Callable {
    const name = node.name === undefined ? 'caller' : (node.name as Node).value as string
    return new Callable(name, ({ positional, keyword }) => {
      const inner = new Scope(scope)
      const names = parameters.map((parameter) => (parameter.type === 'Identifier' ? parameter.value : (parameter.key as Node).value) as string)
      const extra = [...keyword.keys()].find((key) => !names.includes(key) && key !== 'caller')
      if (positional.length > names.length) throw new TemplateError(`macro '${name}' takes not more than ${names.length} argument(s)`)
      if (extra !== undefined) throw new TemplateError(`macro '${name}' takes no keyword argument '${extra}'`)
      const caller = keyword.get('caller')
      if (caller !== undefined) inner.set('caller', caller)
      names.forEach((key, i) => inner.set(key, orUndefined(i < positional.length ? positional[i] : keyword.get(key), key)))
      parameters.forEach((parameter, i) => {
        if (i >= positional.length && !keyword.has(names[i]!) && parameter.type !== 'Identifier')
          inner.set(names[i]!, this.#evaluate(parameter.value as Node, inner))
      })
      if (++this.#depth > MAX_CALL_DEPTH) throw new TemplateError('macros call each other too deep')
      try {
        return this.#block(node.body as Node[], inner)
      } finally {
        this.#depth--
      }
    })
  }

  #evaluate (node: Node, scope: Scope): Value {
    this.#step()
    switch (node.type) {
      case 'IntegerLiteral': return node.value as number
      case 'FloatLiteral': return new Float(node.value as number)
      case 'StringLiteral': return new Text(node.value as string)
      case 'ArrayLiteral': return new List((node.value as Node[]).map((item) => this.#evaluate(item, scope)))
      case 'TupleLiteral': return new List((node.value as Node[]).map((item) => this.#evaluate(item, scope)), true)
      case 'ObjectLiteral':
        return new Dict(new Map([...(node.value as Map<Node, Node>)].map(([key, item]) => {
          const name = this.#evaluate(key, scope)
          if (!(name instanceof Text)) throw new TemplateError(`a dict with a key that is a ${typeName(name)} is not read`)
          return [name.value, this.#evaluate(item, scope)]
        })))
      case 'Identifier': return scope.get(node.value as string)
      case 'MemberExpression': return this.#member(node, scope)
      case 'CallExpression': return this.#counted(this.#call(this.#evaluate(node.callee as Node, scope), this.#arguments(node.args as Node[], scope)))
      case 'FilterExpression': return this.#counted(this.#filter(this.#evaluate(node.operand as Node, scope), node.filter as Node, scope))
      case 'TestExpression':
        return applyTest((node.test as Node).value as string, this.#evaluate(node.operand as Node, scope), []) !== node.negate
      case 'UnaryExpression': return unary((node.operator as Node).value as string, this.#evaluate(node.argument as Node, scope))
      case 'BinaryExpression': return this.#counted(this.#binary(node, scope))
      case 'Ternary': return this.#evaluate((isTrue(this.#evaluate(node.condition as Node, scope)) ? node.trueExpr : node.falseExpr) as Node, scope)
      case 'SelectExpression':
        return isTrue(this.#evaluate(node.test as Node, scope)) ? this.#evaluate(node.lhs as Node, scope) : new Undefined('an if without else')
      default: throw new TemplateError(`${node.type} is not known`)
    }
  }

  #arguments (nodes: readonly Node[], scope: Scope): Arguments {
    const positional: Value[] = []
    const keyword = new Map<string, Value>()
    for (const node of nodes) {
      if (node.type === 'KeywordArgumentExpression') keyword.set((node.key as Node).value as string, this.#evaluate(node.value as Node, scope))
      else if (node.type === 'SpreadExpression') positional.push(...itemsOf(this.#evaluate(node.argument as Node, scope)))
      else if (node.type === 'KeywordSpreadExpression') {
        const given = this.#evaluate(node.argument as Node, scope)
        if (!(given instanceof Dict)) throw new TemplateError('** takes a mapping')
        for (const [key, value] of given.entries) keyword.set(key, value)
      } else positional.push(this.#evaluate(node, scope))
    }
    return { positional, keyword }
  }

  #call (callee: Value, given: Arguments): Value {
    if (callee instanceof Callable) return callee.call(given)
    if (callee instanceof Undefined) throw new TemplateError(`'${callee.name}' is undefined`)
    throw new TemplateError(`'${typeName(callee)}' object is not callable`)
  }

  #filter (value: Value, filter: Node, scope: Scope): Value {
    const name = (filter.type === 'CallExpression' ? (filter.callee as Node).value : filter.value) as string
    const given = filter.type === 'CallExpression' ? this.#arguments(filter.args as Node[], scope) : { positional: [], keyword: new Map<string, Value>() }
    if (!name.startsWith(TEST_PREFIX)) return applyFilter(name, value, given, attribute)
    const [, negation, test] = /^(not__)?(.*)$/.exec(name.slice(TEST_PREFIX.length))!
    return applyTest(test!, value, given.positional) !== (negation !== undefined)
  }

  #member (node: Node, scope: Scope): Value {
    const object = this.#evaluate(node.object as Node, scope)
    const property = node.property as Node
    if (node.computed !== true) return attribute(object, property.value as string | number)
    if (property.type === 'SliceExpression') return this.#slice(object, property, scope)
    const key = this.#evaluate(property, scope)
    if (typeof key === 'number' || typeof key === 'boolean') return item(object, Number(key))
    if (key instanceof Text) return item(object, key.value)
    if (object instanceof Undefined) throw new TemplateError(`'${object.name}' is undefined`)
    return new Undefined(typeName(key))
  }

  #slice (object: Value, node: Node, scope: Scope): Value {
    const bound = (part: unknown): number | undefined => {
      const value = part === undefined ? null : this.#evaluate(part as Node, scope)
      return value === null ? undefined : needInteger(value)
    }
    const [start, stop, step = 1] = [bound(node.start), bound(node.stop), bound(node.step)]
    if (step === 0) throw new TemplateError('slice step cannot be zero')
    if (object instanceof Undefined) throw new TemplateError(`'${object.name}' is undefined`)
    if (!(object instanceof Text || object instanceof List)) throw new TemplateError(`'${typeName(object)}' object is not subscriptable by a slice`)
    const items = itemsOf(object)
    const [low, high] = step > 0 ? [0, items.length] : [-1, items.length - 1]
    const clip = (at: number | undefined, otherwise: number): number =>
      at === undefined ? otherwise : Math.min(Math.max(at < 0 ? at + items.length : at, low), high)
    const [from, to] = [clip(start, step > 0 ? low : high), clip(stop, step > 0 ? high : low)]
    const taken: Value[] = []
    for (let i = from; step > 0 ? i < to : i > to; i += step) taken.push(items[i]!)
    return object instanceof Text
      ? this.#counted(concat(taken as Text[]))
      : new List(taken, object.isTuple, object.printed === undefined ? undefined : '')
  }

  #binary (node: Node, scope: Scope): Value {
    const operator = (node.operator as Node).value as string
    const left = this.#evaluate(node.left as Node, scope)
    if (operator === 'and') return isTrue(left) ? this.#evaluate(node.right as Node, scope) : left
    if (operator === 'or') return isTrue(left) ? left : this.#evaluate(node.right as Node, scope)
    const right = this.#evaluate(node.right as Node, scope)
    switch (operator) {
      case '==': return equal(left, right)
      case '!=': return !equal(left, right)
      case 'in': return contains(right, left)
      case 'not in': return !contains(right, left)
      case '~': return concat([toText(left), toText(right)])
    }
    for (const side of [left, right]) if (side instanceof Undefined) throw new TemplateError(`'${side.name}' is undefined`)
    switch (operator) {
      case '<': return compare(left, right) < 0
      case '<=': return compare(left, right) <= 0
      case '>': return compare(left, right) > 0
      case '>=': return compare(left, right) >= 0
    }
    if (operator === '+' && left instanceof Text && right instanceof Text) return concat([left, right])
    if (operator === '+' && left instanceof List && right instanceof List && typeName(left) === typeName(right) && left.printed === undefined)
      return new List([...left.items, ...right.items], left.isTuple)
    if (operator === '*' && left instanceof Text && typeof right === 'number') return this.#repeated(left, right)
    if (operator === '*' && right instanceof Text && typeof left === 'number') return this.#repeated(right, left)
    if (operator === '*' && left instanceof List && left.printed === undefined && typeof right === 'number') {
      if (left.items.length * right > MAX_RANGE) throw new TemplateError('it makes too long a list')
      return new List(Array.from({ length: Math.max(0, right) }, () => left.items).flat(), left.isTuple)
    }
    return arithmetic(operator, left, right)
  }

  #repeated (text: Text, count: number): Text {
    if (text.length * count > MAX_CHARACTERS) throw new TemplateError('it writes too much text')
    return concat(Array.from({ length: Math.max(0, Math.min(count, MAX_RANGE)) }, () => text))
  }
}

/**
 * Returns the value that a print statement marks as safe: nothing is escaped where it is printed. Elsewhere the filter `safe` makes of a
 * text one that escapes whatever is joined to it, which is not known.
 */
function withoutSafe (node: Node): Node {
  const isSafe = node.type === 'FilterExpression' && (node.filter as Node).type === 'Identifier' && (node.filter as Node).value === 'safe'
  return isSafe ? withoutSafe(node.operand as Node) : node
}

/** Gives names their values, taking a sequence apart where there are several names. */
function assign (target: Node, value: Value, scope: Scope): void {
  if (target.type === 'Identifier') return scope.set(target.value as string, value)
  if (target.type !== 'TupleLiteral') throw new TemplateError(`cannot assign to ${target.type}`)
  const targets = target.value as Node[]
  const items = itemsOf(value)
  if (items.length !== targets.length)
    throw new TemplateError(`${items.length < targets.length ? 'not enough' : 'too many'} values to unpack (expected ${targets.length})`)
  targets.forEach((each, i) => assign(each, items[i]!, scope))
}

function loopOf (items: readonly Value[], i: number, changed: (value: Value) => boolean): Dict {
  const { length } = items
  return new Dict(new Map<string, Value>([
    ['index', i + 1],
    ['index0', i],
    ['revindex', length - i],
    ['revindex0', length - i - 1],
    ['first', i === 0],
    ['last', i === length - 1],
    ['length', length],
    ['previtem', orUndefined(items[i - 1], 'there is no previous item')],
    ['nextitem', orUndefined(items[i + 1], 'there is no next item')],
    ['depth', 1],
    ['depth0', 0],
    ['cycle', new Callable('cycle', ({ positional }) => {
      if (positional.length === 0) throw new TemplateError('no items for cycling given')
      return positional[i % positional.length]!
    })],
    ['changed', new Callable('changed', ({ positional }) => changed(new List(positional, true)))]
  ]))
}

/** Evaluates `value.name`: a method or attribute before an item. */
function attribute (value: Value, name: string | number): Value {
  if (typeof name === 'number') return item(value, name)
  if (value instanceof Undefined) throw new TemplateError(`'${value.name}' is undefined`)
  if (value instanceof Text) return stringMethod(value, name) ?? new Undefined(name)
  if (value instanceof Dict || value instanceof List) {
    const method = collectionMethod(value, name)
    if (method !== undefined) return method
  }
  return value instanceof Dict || value instanceof Namespace ? orUndefined(value.entries.get(name), name) : new Undefined(name)
}

/** Evaluates `value[key]`: an item before a method or attribute. */
function item (value: Value, key: string | number): Value {
  if (value instanceof Undefined) throw new TemplateError(`'${value.name}' is undefined`)
  if (typeof key === 'number') {
    if (!(value instanceof List || value instanceof Text)) return new Undefined(String(key))
    return orUndefined(itemsOf(value).at(key), `item ${key}`)
  }
  if (value instanceof Dict || value instanceof Namespace) {
    const found = value.entries.get(key)
    if (found !== undefined) return found
  }
  return attribute(value, key)
}

function unary (operator: string, value: Value): Value {
  if (operator === 'not') return !isTrue(value)
  const number = numberOf(value)
  if (number === undefined) throw new TemplateError(`bad operand type for unary ${operator}: '${typeName(value)}'`)
  const result = operator === '-' ? -number : number
  return value instanceof Float ? new Float(result) : result === 0 ? 0 : result
}

function arithmetic (operator: string, left: Value, right: Value): Value {
  const [a, b] = [numberOf(left), numberOf(right)]
  if (a === undefined || b === undefined)
    throw new TemplateError(`unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`)
  const isFloat = left instanceof Float || right instanceof Float
  const result = (value: number): Value => {
    if (isFloat) return new Float(value)
    if (!Number.isSafeInteger(value)) throw new TemplateError(`${operator} gives a number beyond what can be counted exactly`)
    return value === 0 ? 0 : value
  }
  switch (operator) {
    case '+': return result(a + b)
    case '-': return result(a - b)
    case '*': return result(a * b)
    case '/':
      if (b === 0) throw new TemplateError('division by zero')
      return new Float(a / b)
    case '//':
      if (b === 0) throw new TemplateError('integer division or modulo by zero')
      return result(Math.floor(a / b))
    case '%': return result(modulo(a, b))
    case '**': return b < 0 ? new Float(a ** b) : result(a ** b)
    default: throw new TemplateError(`the operator ${operator} is not known`)
  }
}

function needInteger (value: Value): number {
  if (typeof value === 'number' || typeof value === 'boolean') return Number(value)
  throw new TemplateError(`'${typeName(value)}' object cannot be interpreted as an integer`)
}

function range (bounds: readonly number[]): List {
  const [start, stop, step = 1] = bounds.length === 1 ? [0, bounds[0]!] : bounds
  if (start === undefined || stop === undefined || bounds.length > 3) throw new TemplateError('range takes one to three whole numbers')
  if (step === 0) throw new TemplateError('range() arg 3 must not be zero')
  const count = Math.max(0, Math.ceil((stop - start) / step))
  if (count > MAX_RANGE) throw new TemplateError(`Range too big. The sandbox blocks ranges larger than MAX_RANGE (${MAX_RANGE}).`)
  return new List(Array.from({ length: count }, (_, i) => start + i * step), false, `range(${start}, ${stop}${step === 1 ? '' : `, ${step}`})`)
}

/** Returns the local time in a `strftime` format. Throws for a directive that is not known. */
function formatTime (now: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, '0')
  const name = (options: Intl.DateTimeFormatOptions): string => new Intl.DateTimeFormat('en-US', options).format(now)
  const parts: Readonly<Record<string, () => string>> = {
    '%': () => '%',
    Y: () => String(now.getFullYear()),
    y: () => two(now.getFullYear() % 100),
    m: () => two(now.getMonth() + 1),
    d: () => two(now.getDate()),
    e: () => String(now.getDate()).padStart(2),
    '-d': () => String(now.getDate()),
    H: () => two(now.getHours()),
    M: () => two(now.getMinutes()),
    S: () => two(now.getSeconds()),
    b: () => name({ month: 'short' }),
    B: () => name({ month: 'long' }),
    a: () => name({ weekday: 'short' }),
    A: () => name({ weekday: 'long' })
  }
  return format.replace(/%(-?[A-Za-z%])/g, (directive, key: string) => {
    const part = Object.hasOwn(parts, key) ? parts[key] : undefined
    if (part === undefined) throw new TemplateError(`strftime_now does not know ${directive}`)
    return part()
  })
}
