import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { blocksText, uncovered } from '../src/span.ts'

describe('uncovered', () => {
  it('finds holes before, between and after holders', () => {
    expect(uncovered({ first: 0, end: 10 }, [{ first: 6, end: 8 }, { first: 2, end: 4 }])).toEqual([
      { first: 0, end: 2 }, { first: 4, end: 6 }, { first: 8, end: 10 }
    ])
  })

  it('agrees with counting, for any holders', () => {
    const span = fc.tuple(fc.nat(12), fc.nat(12))
    fc.assert(fc.property(fc.array(span, { maxLength: 6 }), span, (held, [first, end]) => {
      const holes = uncovered({ first, end }, held.map(([from, to]) => ({ first: from, end: to })))
      const counted = Array.from({ length: 13 }, (_, block) => block).filter((block) =>
        first <= block && block < end && !held.some(([from, to]) => from <= block && block < to))
      expect(holes.flatMap((hole) => Array.from({ length: hole.end - hole.first }, (_, i) => hole.first + i))).toEqual(counted)
    }))
  })
})

describe('blocksText', () => {
  it('names spans as options take them', () => {
    expect(blocksText([{ first: 4, end: 12 }, { first: 14, end: 16 }])).toBe('blocks 4-12 and 14-16')
  })
})
