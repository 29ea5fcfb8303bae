import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { segments, type SegmentItem } from '../../../src/roles/middle/segments.ts'
import { AllMembers, Sequential } from '../../../src/roles/training/aggregation/sequential.ts'

describe('segments', () => {
  it('cuts the middle at every first and last block', () => {
    const items = [
      { id: 'a', first: 1, end: 4, rows: 1 },
      { id: 'b', first: 2, end: 4, rows: 1 },
      { id: 'c', first: 1, end: 3, rows: 1 }
    ]
    expect(segments(items)).toEqual([
      { first: 1, end: 2, items: ['a', 'c'] },
      { first: 2, end: 3, items: ['a', 'b', 'c'] },
      { first: 3, end: 4, items: ['a', 'b'] }
    ])
  })

  const item = fc.record({ id: fc.uuid(), first: fc.nat(6), length: fc.integer({ min: 0, max: 6 }), rows: fc.integer({ min: 1, max: 9 }) })
    .map(({ id, first, length, rows }): SegmentItem => ({ id, first, end: first + length, rows }))

  it('takes every item through each of its blocks exactly once and in order, within the budget', () => {
    fc.assert(
      fc.property(fc.uniqueArray(item, { selector: ({ id }) => id, maxLength: 8 }), fc.integer({ min: 1, max: 20 }), (items, budget) => {
        const plan = segments(items, budget)
        for (const { id, first, end } of items) {
          const computed = plan.filter((segment) => segment.items.includes(id)).flatMap((segment) =>
            Array.from({ length: segment.end - segment.first }, (_, i) => segment.first + i)
          )
          expect(computed).toEqual(Array.from({ length: end - first }, (_, i) => first + i))
        }
        for (const segment of plan) {
          const rows = items.filter(({ id }) => segment.items.includes(id)).reduce((sum, { rows }) => sum + rows, 0)
          expect(segment.items.length === 1 || rows <= budget).toBe(true)
        }
      })
    )
  })
})

describe('participants', () => {
  it('are all members when clients are batched', () => {
    expect(new AllMembers(1).participants(['b', 'a'])).toEqual(['a', 'b'])
  })

  it('take turns in order when training is sequential, whoever comes or goes', () => {
    const sequential = new Sequential(2)
    expect(sequential.participants(['b', 'a', 'c'], undefined)).toEqual(['a'])
    expect(sequential.participants(['b', 'a', 'c'], 'a')).toEqual(['b'])
    expect(sequential.participants(['a', 'c'], 'b')).toEqual(['c'])
    expect(sequential.participants(['a', 'c'], 'c')).toEqual(['a'])
    expect(sequential.participants([], 'c')).toEqual([])
  })

  it('need each other only for the first round when training is sequential', () => {
    expect([new Sequential(3).needed(0), new Sequential(3).needed(1), new AllMembers(3).needed()]).toEqual([3, 1, 3])
  })
})
