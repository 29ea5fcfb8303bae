import { isShallow } from '../../../api/json.ts'
import { OutputFormatError } from './errors.ts'

export type JsonSchema = Readonly<Record<string, unknown>>

/** A schema takes time and memory to compile as it grows, and comes from whoever may ask this client for a text. */
export const MAX_SCHEMA_CHARACTERS = 64 * 1024

/** What a schema may say besides what constrains a value. By its specification, `format` constrains nothing either. */
const ANNOTATIONS = new Set([
  '$schema', '$id', '$comment', 'title', 'description', 'default', 'examples', 'deprecated', 'readOnly', 'writeOnly', 'format'
])

const DEFINITIONS = new Set(['$defs', 'definitions'])

/** What says all of a value by itself: nothing that constrains the value stands beside it. */
const ALONE = ['enum', 'const', 'anyOf', '$ref'] as const

/** What may constrain the values of a type. */
const CONSTRAINTS: Readonly<Record<string, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  boolean: [],
  null: []
}

/**
 * Returns a JSON Schema of which each text that xgrammar writes is an instance: objects have the properties that are named, in their order,
 * and no others. Where the JSON is among free text, which may have tabs, lengths of strings are not kept. Throws OutputFormatError, naming
 * the place, for whatever a text could not be kept to.
 */
export function keptSchema (schema: unknown, { isAmongText = false } = {}): JsonSchema | boolean {
  if (!isShallow(schema)) throw new OutputFormatError('the JSON Schema is nested too deep')
  const { length } = JSON.stringify(schema)
  if (length > MAX_SCHEMA_CHARACTERS)
    throw new OutputFormatError(`the JSON Schema has ${length} characters, more than ${MAX_SCHEMA_CHARACTERS}`, 'shorten it')
  return new SchemaReader(isAmongText ? { ...CONSTRAINTS, string: [] } : CONSTRAINTS).kept(schema, '#')
}

/** Reads schemas of which each type may have these constraints. */
class SchemaReader {
  readonly #constraints: typeof CONSTRAINTS

  constructor (constraints: typeof CONSTRAINTS) {
    this.#constraints = constraints
  }

  kept (schema: unknown, path: string): JsonSchema | boolean {
    if (schema === true) return schema
    if (!isRecord(schema)) throw new OutputFormatError(`the JSON Schema has ${JSON.stringify(schema)} at ${path}, where a schema is to be`)
    const definitions = Object.fromEntries(Object.entries(schema).filter(([keyword]) => DEFINITIONS.has(keyword))
      .map(([keyword, named]) => [keyword, this.#keptEach(named, `${path}/${keyword}`)]))
    const said = Object.fromEntries(Object.entries(schema).filter(([keyword]) => !DEFINITIONS.has(keyword) && !ANNOTATIONS.has(keyword)))
    return { ...definitions, ...this.#keptAlone(said, path) ?? this.#keptTyped(said, path) }
  }

  #keptAlone (said: JsonSchema, path: string): JsonSchema | undefined {
    const keyword = ALONE.find((keyword) => keyword in said)
    if (keyword === undefined) return undefined
    const value = said[keyword]
    // The type of a value that is spelt out says nothing more.
    const spelt = keyword === 'enum' || keyword === 'const'
    const other = Object.keys(said).find((each) => each !== keyword && !(spelt && each === 'type'))
    if (other !== undefined) throw refused(other, path, `beside ${keyword}`)
    if (keyword !== 'anyOf') return { [keyword]: value }
    if (!Array.isArray(value) || value.length === 0) throw new OutputFormatError(`the JSON Schema has no list of schemas at ${path}/anyOf`)
    return { anyOf: value.map((part: unknown, i) => this.kept(part, `${path}/anyOf/${i}`)) }
  }

  #keptTyped (said: JsonSchema, path: string): JsonSchema {
    const { type, ...constraints } = said
    const [first] = Object.keys(constraints)
    if (type === undefined) {
      if (first !== undefined) throw refused(first, path, 'without a type')
      return {}
    }
    const types = [type].flat()
    const unknown = types.find((each) => typeof each !== 'string' || !Object.hasOwn(this.#constraints, each))
    if (unknown !== undefined) throw new OutputFormatError(`the JSON Schema has no known type at ${path}/type: ${JSON.stringify(unknown)}`)
    if (types.length !== 1 && first !== undefined) throw refused(first, path, 'beside several types')
    const wrong = Object.keys(constraints).find((keyword) => !this.#constraints[types[0] as string]!.includes(keyword))
    if (wrong !== undefined) throw refused(wrong, path, `for the type ${types[0] as string}`)
    switch (types[0]) {
      case 'object': return { type, ...this.#keptObject(constraints, path) }
      case 'array': return { type, ...this.#keptArray(constraints, path) }
      case 'integer': case 'number':
        if (first !== undefined && Object.keys(constraints).length !== 2) throw refused(first, path, 'without a bound on either side')
        return said
      default: return said
    }
  }

  #keptObject ({ properties, required = [], additionalProperties = true }: JsonSchema, path: string): JsonSchema {
    const named = properties === undefined ? {} : this.#keptEach(properties, `${path}/properties`)
    const lacking = [required].flat().find((name) => !Object.hasOwn(named, String(name)))
    if (lacking !== undefined) throw new OutputFormatError(`the JSON Schema requires ${JSON.stringify(lacking)} at ${path}, and has no such property`)
    // A property beside those that are named could have the name of one, and another type.
    if (properties !== undefined || additionalProperties === false) return { properties: named, required, additionalProperties: false }
    return additionalProperties === true ? {} : { additionalProperties: this.kept(additionalProperties, `${path}/additionalProperties`) }
  }

  #keptArray ({ items, prefixItems, ...lengths }: JsonSchema, path: string): JsonSchema {
    if (prefixItems !== undefined && (items !== false || Object.keys(lengths).length > 0))
      throw refused('prefixItems', path, 'but beside "items": false alone')
    return {
      ...lengths,
      ...(items === undefined ? {} : { items: items === false ? false : this.kept(items, `${path}/items`) }),
      ...(prefixItems === undefined ? {} : { prefixItems: [prefixItems].flat().map((part: unknown, i) => this.kept(part, `${path}/prefixItems/${i}`)) })
    }
  }

  #keptEach (named: unknown, path: string): Record<string, unknown> {
    if (!isRecord(named)) throw new OutputFormatError(`the JSON Schema has no schemas by their names at ${path}`)
    return Object.fromEntries(Object.entries(named).map(([name, part]) => [name, this.kept(part, `${path}/${name}`)]))
  }
}

function refused (keyword: string, path: string, where: string): OutputFormatError {
  return new OutputFormatError(
    `the JSON Schema has ${keyword} at ${path}, which a text is not kept to ${where}`,
    'leave it out, and check the text afterwards'
  )
}

function isRecord (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
