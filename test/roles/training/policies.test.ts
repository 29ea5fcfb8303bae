import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { segments, type SegmentItem } from '../../../src/roles/middle/segments.ts'
import { takeBatch } from '../../../src/roles/server/generation/batcher.ts'
import { participants } from '../../../src/roles/training/aggregation/sequential.ts'
import { ReplyCollector, type Timer } from '../../../src/roles/training/reply-collector.ts'

function manualTimer (): Timer & { fire: () => void } {
  let pending: (() => void) | undefined
  return {
    after (_delayMs, callback) {
      pending = callback
      return () => { pending = undefined }
    },
    fire () { pending?.() }
  }
}

describe('Barrier', () => {
  it('opens when everyone has answered, with the answers ordered by peer', async () => {
    const barrier = new ReplyCollector<number>(['b', 'a'], 1000, manualTimer())
    barrier.add('b', 2)
    barrier.add('a', 1)
    expect([...await barrier.done]).toEqual([['a', 1], ['b', 2]])
  })

  it('opens at the deadline with what there is', async () => {
    const timer = manualTimer()
    const barrier = new ReplyCollector<number>(['a', 'b'], 1000, timer)
    barrier.add('a', 1)
    timer.fire()
    expect([...await barrier.done]).toEqual([['a', 1]])
  })

  it('declines a second answer, an answer from a stranger and one after the deadline', async () => {
    const timer = manualTimer()
    const barrier = new ReplyCollector<number>(['a', 'b'], 1000, timer)
    expect(barrier.add('a', 1)).toBe(true)
    expect(barrier.add('a', 9)).toBe(false)
    expect(barrier.add('c', 9)).toBe(false)
    timer.fire()
    expect(barrier.add('b', 9)).toBe(false)
    expect([...await barrier.done]).toEqual([['a', 1]])
  })

  it('stops waiting for a peer that is excused', async () => {
    const barrier = new ReplyCollector<number>(['a', 'b'], 1000, manualTimer())
    barrier.add('a', 1)
    barrier.drop('b')
    expect([...await barrier.done]).toEqual([['a', 1]])
  })

  it('opens at once when nobody is expected', async () => {
    expect((await new ReplyCollector<number>([], 1000, manualTimer()).done).size).toBe(0)
  })
})

describe('segments', () => {
  it('cuts the middle where anyone boards or alights', () => {
    const riders = [
      { id: 'a', first: 1, end: 4, rows: 1 },
      { id: 'b', first: 2, end: 4, rows: 1 },
      { id: 'c', first: 1, end: 3, rows: 1 }
    ]
    expect(segments(riders)).toEqual([
      { first: 1, end: 2, items: ['a', 'c'] },
      { first: 2, end: 3, items: ['a', 'b', 'c'] },
      { first: 3, end: 4, items: ['a', 'b'] }
    ])
  })

  const rider = fc.record({ id: fc.uuid(), first: fc.nat(6), length: fc.integer({ min: 0, max: 6 }), rows: fc.integer({ min: 1, max: 9 }) })
    .map(({ id, first, length, rows }): SegmentItem => ({ id, first, end: first + length, rows }))

  it('carries every rider through each of its blocks exactly once and in order, within the budget', () => {
    fc.assert(
      fc.property(fc.uniqueArray(rider, { selector: ({ id }) => id, maxLength: 8 }), fc.integer({ min: 1, max: 20 }), (riders, budget) => {
        const plan = segments(riders, budget)
        for (const { id, first, end } of riders) {
          const ridden = plan.filter((segment) => segment.items.includes(id)).flatMap((segment) =>
            Array.from({ length: segment.end - segment.first }, (_, i) => segment.first + i)
          )
          expect(ridden).toEqual(Array.from({ length: end - first }, (_, i) => first + i))
        }
        for (const segment of plan) {
          const rows = riders.filter(({ id }) => segment.items.includes(id)).reduce((sum, { rows }) => sum + rows, 0)
          expect(segment.items.length === 1 || rows <= budget).toBe(true)
        }
      })
    )
  })
})

describe('participants', () => {
  it('are all members when clients are batched', () => {
    expect(participants('client-batch', ['b', 'a'], 'a')).toEqual(['a', 'b'])
  })

  it('take turns in order when training is sequential, whoever comes or goes', () => {
    expect(participants('sequential', ['b', 'a', 'c'], undefined)).toEqual(['a'])
    expect(participants('sequential', ['b', 'a', 'c'], 'a')).toEqual(['b'])
    expect(participants('sequential', ['a', 'c'], 'b')).toEqual(['c'])
    expect(participants('sequential', ['a', 'c'], 'c')).toEqual(['a'])
    expect(participants('sequential', [], 'c')).toEqual([])
  })
})

describe('takeBatch', () => {
  it('takes what fits the budget and leaves the rest in order', () => {
    const queue = [{ rows: 2 }, { rows: 2 }, { rows: 2 }]
    expect(takeBatch(queue, 5)).toHaveLength(2)
    expect(queue).toHaveLength(1)
  })

  it('takes one that exceeds the budget alone', () => {
    const queue = [{ rows: 9 }, { rows: 1 }]
    expect(takeBatch(queue, 5)).toEqual([{ rows: 9 }])
  })
})
