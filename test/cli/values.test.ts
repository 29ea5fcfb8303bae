import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  address,
  aggregation,
  blockNumbers,
  boolean,
  clip,
  duration,
  ends,
  fieldColumn,
  hexSeed,
  integer,
  list,
  normOrNone,
  number,
  path,
  peerId,
  range,
  share,
  size,
  span,
  spanOrAuto,
  text
} from '../../src/cli/values.ts'
import { UsageError } from '../../src/errors.ts'

describe('values of options', () => {
  it.each([['500ms', 500], ['60s', 60_000], ['30m', 1_800_000], ['24h', 86_400_000], ['7d', 604_800_000], ['1.5h', 5_400_000]])(
    'reads the duration %s',
    (given, ms) => {
      expect(duration({ max: '7d' })(given)).toBe(ms)
    }
  )

  it.each(['', '60', 's', '-1s', '0s', '1y', '1 s x', '9e9d', '99999999999999999d'])('refuses the duration %j', (given) => {
    expect(() => duration({ max: '7d' })(given)).toThrow(UsageError)
  })

  it('refuses a duration beyond its limit, and says the limit', () => {
    expect(() => duration({ max: '7d' })('30d')).toThrow(expect.objectContaining({ message: 'is longer than 7d', next: 'give 7d at most' }))
  })

  it.each([['4-12', { first: 4, end: 12 }], [' 0-1 ', { first: 0, end: 1 }]])('reads the span %j', (given, blocks) => {
    expect(span(given)).toEqual(blocks)
    expect([spanOrAuto(given), spanOrAuto('auto')]).toEqual([blocks, 'auto'])
  })

  it.each(['', '4', '4-', '4-4', '12-4', '4..12', '-1-3', '4-12-13', '4-99999', 'all'])('refuses the span %j', (given) => {
    expect(() => spanOrAuto(given)).toThrow(UsageError)
  })

  it.each([['64MiB', 67_108_864], ['2GB', 2e9], ['1 KiB', 1024], ['10B', 10], ['0.5GiB', 536_870_912]])(
    'reads the size %s',
    (given, bytes) => {
      expect(size(given)).toBe(bytes)
    }
  )

  it.each([['1%', 0.01], ['0.01', 0.01], ['0', 0], ['100 %', 1], ['.5', 0.5], ['1', 1]] as const)('reads the share %s', (given, expected) => {
    expect(share(given)).toBeCloseTo(expected)
  })

  it.each(['101%', '2', '-1%', '%', '', '1%%', 'all'])('refuses the share %j', (given) => {
    expect(() => share(given)).toThrow(UsageError)
  })

  it.each(['64', '64mib', '0B', 'MiB', '1constructor'])('refuses the size %j', (given) => {
    expect(() => size(given)).toThrow(UsageError)
  })

  it('reads any whole number back, and nothing outside its bounds', () => {
    fc.assert(fc.property(fc.integer(), (value) => {
      const parse = integer({ min: -10, max: 10 })
      if (Math.abs(value) <= 10) expect(parse(String(value))).toBe(value)
      else expect(() => parse(String(value))).toThrow('is not a whole number of at least -10 and of at most 10')
    }))
  })

  it.each(['', ' ', 'NaN', 'Infinity', '0x10', '1,5', '1e999'])('refuses the number %j', (given) => {
    expect(() => number()(given)).toThrow(UsageError)
  })

  it('reads numbers in scientific notation', () => {
    expect(number({ min: 0, above: true })('2e-4')).toBe(0.0002)
  })

  it('excludes a bound that a number must be above', () => {
    expect(() => number({ min: 0, above: true })('0')).toThrow('is not a number above 0')
  })

  it.each([['1..4', { min: 1, max: 4 }], ['2', { min: 2, max: 2 }]])('reads the range %s', (given, value) => {
    expect(range({ min: 1 })(given)).toEqual(value)
  })

  it.each(['', '..', '1..', '4..1', '0..2', '1..2..3', '1-2'])('refuses the range %j', (given) => {
    expect(() => range({ min: 1 })(given)).toThrow(UsageError)
  })

  it.each([['3', [3]], ['2..3,5', [2, 3, 5]], ['0, 1', [0, 1]]])('reads the blocks %s', (given, value) => {
    expect(blockNumbers(given)).toEqual(value)
  })

  it.each(['', '1,1', '1..3,2', '-1', '3..2', '0..99999'])('refuses the blocks %j', (given) => {
    expect(() => blockNumbers(given)).toThrow(UsageError)
  })

  it.each([['shared', { mode: 'shared' }], ['personal', { mode: 'personal' }], ['average:5', { mode: 'average', every: 5 }]])(
    'reads the ends %s',
    (given, value) => {
      expect(ends(given)).toEqual(value)
    }
  )

  it.each(['average', 'average:0', 'average:1.5', 'mean'])('refuses the ends %j', (given) => {
    expect(() => ends(given)).toThrow(UsageError)
  })

  it.each([
    ['plain', { mode: 'plain' }],
    ['secure', { mode: 'secure', minContributors: 3 }],
    ['secure:128', { mode: 'secure', minContributors: 128 }]
  ])('reads the aggregation %s', (given, value) => {
    expect(aggregation(given)).toEqual(value)
  })

  it.each(['secret', 'secure:2', 'secure:129', 'secure:', 'secure:3.5'])('refuses the aggregation %j', (given) => {
    expect(() => aggregation(given)).toThrow(UsageError)
  })

  it.each([['auto', 'auto'], ['none', 'none'], ['2.5', 2.5]])('reads the clip %s', (given, value) => {
    expect(clip(given)).toBe(value)
  })

  it('refuses a clip of 0, naming the words it takes', () => {
    expect(() => clip('0')).toThrow('is not auto, none or a number above 0')
  })

  it('reads a norm, or none as null', () => {
    expect([normOrNone('1'), normOrNone('none')]).toEqual([1, null])
    expect(() => normOrNone('off')).toThrow(UsageError)
  })

  it('reads a list once, and refuses an item named twice', () => {
    expect(list(text)('q, v')).toEqual(['q', 'v'])
    expect(() => list(text)('q,q')).toThrow('names an item twice')
    expect(list(integer(), { repeats: true })('1,1')).toEqual([1, 1])
  })

  it('makes a path absolute', () => {
    expect(path('a/b')).toBe(`${process.cwd()}/a/b`)
  })

  it('reads a field and its column, whose name may hold the sign between them', () => {
    expect(fieldColumn('completion=the answer=')).toEqual(['completion', 'the answer='])
  })

  it.each([[fieldColumn, 'completion'], [fieldColumn, '=answer'], [fieldColumn, 'completion='], [address, 'localhost:4001'], [address, '/ip4/1.2.3.4/tcp/1 2'], [peerId, 'QmFoo'], [hexSeed, 'xyz'], [boolean, 'yes'], [
    text,
    ''
  ]])('refuses with %o the text %j', (parse, given) => {
    expect(() => (parse as (text: string) => unknown)(given)).toThrow(UsageError)
  })
})
