import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_JSON_DEPTH } from '../../../../src/api/json.ts'
import { keptSchema, MAX_SCHEMA_CHARACTERS } from '../../../../src/model/text/structured-output/json-schema.ts'

describe('what a JSON Schema may say', () => {
  it.each<[string, object, string]>([
    ['an unknown keyword', { type: 'array', uniqueItems: true }, 'uniqueItems at #'],
    ['a keyword within properties', { type: 'object', properties: { a: { not: {} } } }, 'not at #/properties/a'],
    ['a keyword within definitions', { $ref: '#/$defs/a', $defs: { a: { type: 'string', contentEncoding: 'base64' } } }, 'contentEncoding at #/$defs/a'],
    ['a bound without the other', { type: 'integer', minimum: 3 }, 'minimum at #'],
    ['a constraint without a type', { minLength: 2 }, 'minLength at #'],
    ['a constraint for another type', { type: 'string', minimum: 2, maximum: 3 }, 'minimum at #'],
    ['a constraint beside several types', { type: ['string', 'null'], minLength: 2 }, 'minLength at #'],
    ['a constraint beside a list of values', { enum: [1, 2], minimum: 2 }, 'minimum at #'],
    ['a pattern', { type: 'string', pattern: '^a*$' }, 'pattern at #'],
    ['a required property that is not named', { type: 'object', required: ['z'] }, '"z" at #'],
    ['the name of a property of every object', { type: 'object', properties: {}, required: ['toString'] }, '"toString" at #'],
    ['an unknown type', { type: 'toString' }, '"toString"'],
    ['a list in place of a schema', { type: 'array', items: [{}] }, '#/items'],
    ['items after the first ones', { type: 'array', prefixItems: [{}] }, 'prefixItems at #']
  ])('%s is refused with its place', (_, schema, place) => {
    expect(() => keptSchema(schema)).toThrow(place)
  })

  it('annotations are left out, and are no reason to refuse', () => {
    expect(keptSchema({ $schema: 'x', title: 'A', type: 'string', format: 'email', default: 1 })).toEqual({ type: 'string' })
  })

  it('lengths of strings are refused where the JSON is among free text', () => {
    const schema = { type: 'string', minLength: 1, maxLength: 2 }
    expect(keptSchema(schema)).toEqual(schema)
    expect(() => keptSchema(schema, { isAmongText: true })).toThrow('minLength at #')
  })

  it('an object has the properties that are named and no others', () => {
    expect(keptSchema({ type: 'object', properties: { a: { type: 'null' } }, additionalProperties: { type: 'string' } }))
      .toEqual({ type: 'object', properties: { a: { type: 'null' } }, required: [], additionalProperties: false })
  })

  it('more than MAX_SCHEMA_CHARACTERS or MAX_JSON_DEPTH is refused', () => {
    expect(() => keptSchema({ enum: ['a'.repeat(MAX_SCHEMA_CHARACTERS)] })).toThrow('more than 65536')
    let deep: object = {}
    for (let i = 0; i < MAX_JSON_DEPTH; i++) deep = { anyOf: [deep] }
    expect(() => keptSchema(deep)).toThrow('nested too deep')
  })

  it('anything at all is taken or refused with E_OUTPUT_FORMAT', () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => {
      try {
        keptSchema(value)
      } catch (error) {
        expect((error as { code?: string }).code).toBe('E_OUTPUT_FORMAT')
      }
    }))
  })
})
