import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { spread, stageFrom, type SpanHolder } from '../../../../src/roles/server/training/spread.ts'

function holder (peer: string, first: number, end: number, speed?: number): SpanHolder {
  return { peer, span: { first, end }, speed }
}

describe('stages of the middle', () => {
  it('end where their holders change', () => {
    const holders = [holder('a', 1, 4), holder('b', 2, 6), holder('c', 2, 6)]
    expect(stageFrom(1, 6, holders)).toEqual({ first: 1, end: 2, replicas: [holders[0]] })
    expect(stageFrom(2, 6, holders)).toEqual({ first: 2, end: 4, replicas: holders })
    expect(stageFrom(4, 6, holders)).toEqual({ first: 4, end: 6, replicas: holders.slice(1) })
  })

  it('are not cut where nothing changes', () => {
    expect(stageFrom(1, 3, [holder('a', 0, 9)])?.end).toBe(3)
  })

  it('are none where nobody holds the block', () => {
    expect(stageFrom(3, 6, [holder('a', 1, 3), holder('b', 4, 6)])).toBeUndefined()
  })
})

describe('spread', () => {
  const workItems = fc.array(fc.nat(50), { maxLength: 40 }).map((works) => works.map((work, i) => ({ id: `item-${i}`, work })))
  const holders = fc.array(fc.option(fc.integer({ min: 1, max: 9 }), { nil: undefined }), { minLength: 1, maxLength: 6 })
    .map((speeds) => speeds.map((speed, i) => holder(`peer-${i}`, 0, 1, speed)))

  it('gives every item to one holder', () => {
    fc.assert(fc.property(workItems, holders, (items, held) => {
      const ids = spread(items, held).flatMap(({ items: own }) => own.map(({ id }) => id))
      expect(ids.sort()).toEqual(items.map(({ id }) => id).sort())
    }))
  })

  it('does not depend on the order in which items and holders come', () => {
    fc.assert(fc.property(workItems, holders, (items, held) => {
      expect(spread(items.toReversed(), held.toReversed())).toEqual(spread(items, held))
    }))
  })

  it('keeps nobody busy for longer than its share and one item', () => {
    fc.assert(fc.property(workItems, fc.integer({ min: 1, max: 6 }), (items, count) => {
      const held = Array.from({ length: count }, (_, i) => holder(`peer-${i}`, 0, 1))
      const total = items.reduce((sum, { work }) => sum + work, 0)
      const largest = Math.max(0, ...items.map(({ work }) => work))
      for (const { items: own } of spread(items, held))
        expect(own.reduce((sum, { work }) => sum + work, 0)).toBeLessThanOrEqual(total / count + largest)
    }))
  })

  it('gives a holder that is three times as fast three times as much', () => {
    const items = Array.from({ length: 40 }, (_, i) => ({ id: `${i}`, work: 1 }))
    const shares = spread(items, [holder('a', 0, 1, 30), holder('b', 0, 1, 10)]).map(({ items: own }) => own.length)
    expect(shares).toEqual([30, 10])
  })
})
