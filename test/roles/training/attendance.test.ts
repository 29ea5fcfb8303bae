import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Attendance, laggards, type Conduct } from '../../../src/roles/training/attendance.ts'

describe('Attendance', () => {
  it('lets a peer sit out twice as long after each further fault in a row, up to 64 rounds', () => {
    const attendance = new Attendance()
    const sitsOut = Array.from({ length: 10 }, (_, round) => attendance.record('a', round, 'missed'))
    expect(sitsOut).toEqual([0, 1, 2, 4, 8, 16, 32, 64, 64, 64])
  })

  it('takes one fault back for each round in time', () => {
    const attendance = new Attendance()
    for (const conduct of ['missed', 'lagged', 'punctual', 'punctual'] as const) attendance.record('a', 0, conduct)
    expect(attendance.record('a', 1, 'missed')).toBe(0)
  })

  it('counts down the rounds that a peer sits out', () => {
    const attendance = new Attendance()
    for (const round of [0, 1, 2]) attendance.record('a', round, 'missed')
    expect([3, 4, 5].map((round) => attendance.sitsOut('a', round))).toEqual([2, 1, 0])
  })

  it('lets everybody take part who sits out nothing, and never fewer than a round needs', () => {
    const peers = ['a', 'b', 'c', 'd']
    const conduct = fc.constantFrom<Conduct>('punctual', 'lagged', 'missed')
    fc.assert(fc.property(fc.array(fc.tuple(fc.constantFrom(...peers), conduct), { maxLength: 40 }), fc.nat(4), (history, needed) => {
      const attendance = new Attendance()
      for (const [index, [peer, what]] of history.entries()) attendance.record(peer, index, what)
      const round = history.length
      const eligible = attendance.eligible(peers, round, needed)
      expect(eligible.length).toBeGreaterThanOrEqual(needed)
      for (const peer of peers) if (attendance.sitsOut(peer, round) === 0) expect(eligible).toContain(peer)
      expect(attendance.eligible(peers, round + 64, needed)).toEqual(peers)
    }))
  })
})

describe('laggards', () => {
  it('are those who take more than half of the deadline and more than twice the median', () => {
    expect(laggards(new Map([['a', 10], ['b', 20], ['c', 900]]), 1000)).toEqual(new Set(['c']))
    expect(laggards(new Map([['a', 10], ['b', 20], ['c', 500]]), 1000)).toEqual(new Set())
  })

  it('are none where everybody is slow, or nobody else is there', () => {
    expect(laggards(new Map([['a', 800], ['b', 820], ['c', 900]]), 1000)).toEqual(new Set())
    expect(laggards(new Map([['a', 900]]), 1000)).toEqual(new Set())
    expect(laggards(new Map(), 1000)).toEqual(new Set())
  })
})
