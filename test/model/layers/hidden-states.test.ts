import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { evenGroups, rowLayout } from '../../../src/model/layers/hidden-states.ts'

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

describe('evenGroups', () => {
  it('keeps a batch whole where padding it takes few places, or hardly more than it has rows', () => {
    for (const lengths of [[7], [1024, 1024, 1024, 1024], [60, 1, 1, 5], Array<number>(4096).fill(1)])
      expect(evenGroups(lengths)).toEqual([{ sequences: [0, lengths.length], rows: [0, sum(lengths)] }])
  })

  it('parts a long sequence from a thousand short ones', () => {
    expect(evenGroups([...Array<number>(1000).fill(2), 4096, ...Array<number>(1000).fill(2)])).toEqual([
      { sequences: [0, 1000], rows: [0, 2000] },
      { sequences: [1000, 1002], rows: [2000, 6098] },
      { sequences: [1002, 2001], rows: [6098, 8096] }
    ])
  })

  it('cuts a batch into runs of so many rows, and leaves a longer sequence whole', () => {
    expect(evenGroups([200, 200, 200, 900, 100], 512)).toEqual([
      { sequences: [0, 2], rows: [0, 400] },
      { sequences: [2, 3], rows: [400, 600] },
      { sequences: [3, 4], rows: [600, 1500] },
      { sequences: [4, 5], rows: [1500, 1600] }
    ])
  })

  it('has every sequence once, in order, padded to few places or to at most twice its rows', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 4096 }), { minLength: 1, maxLength: 60 }), (lengths) => {
      let [sequence, row] = [0, 0]
      for (const { sequences: [first, end], rows: [firstRow, endRow] } of evenGroups(lengths)) {
        const own = lengths.slice(first, end)
        expect([first, firstRow, endRow - firstRow]).toEqual([sequence, row, sum(own)])
        expect(own.length === 1 || own.length * Math.max(...own) <= Math.max(4096, 2 * sum(own))).toBe(true)
        ;[sequence, row] = [end, endRow]
      }
      expect([sequence, row]).toEqual([lengths.length, sum(lengths)])
    }))
  })
})

describe('rowLayout', () => {
  it('takes more sequences than a call takes arguments', () => {
    expect(rowLayout({ lengths: Array<number>(200_000).fill(1) }).slots.shape).toEqual([200_000, 1])
  })
})
