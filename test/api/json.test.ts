import { describe, expect, it } from 'vitest'
import { isShallow, MAX_JSON_DEPTH } from '../../src/api/json.ts'

describe('the depth of JSON', () => {
  it(`is ${MAX_JSON_DEPTH} at most, however deep a value is`, () => {
    const nested = (depth: number): unknown => JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`)
    expect(isShallow(nested(MAX_JSON_DEPTH))).toBe(true)
    expect(isShallow(nested(MAX_JSON_DEPTH + 1))).toBe(false)
    expect(isShallow(nested(100_000))).toBe(false)
    expect(isShallow({ a: [1, null, 'x', { b: true }] })).toBe(true)
  })
})
