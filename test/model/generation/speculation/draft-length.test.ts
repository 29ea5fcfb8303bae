import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AcceptanceRates } from '../../../../src/model/generation/speculation/acceptance-rates.ts'
import { draftLength } from '../../../../src/model/generation/speculation/draft-length.ts'
import { RoundTimes } from '../../../../src/model/generation/speculation/round-times.ts'

const anyRates = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 4 })

/** Expected tokens a millisecond when `count` tokens are drafted. */
function speed (rates: readonly number[], count: number, ms: (states: number) => number): number {
  let [tokens, reached] = [1, 1]
  for (const rate of rates.slice(0, count)) tokens += reached *= rate
  return tokens / ms(count + 1)
}

describe('the number of drafted tokens', () => {
  it('is the fastest one, or none where no number is clearly faster', () => {
    const upTo = (max: number) => fc.double({ min: 0, max, noNaN: true })
    fc.assert(fc.property(anyRates, upTo(300), upTo(50), (rates, rest, each) => {
      const base = rest + 1
      const ms = (states: number): number => base + each * states
      const count = draftLength(rates, ms)
      const speeds = Array.from({ length: rates.length + 1 }, (_, k) => speed(rates, k, ms))
      if (count === 0) expect(Math.max(...speeds)).toBeLessThanOrEqual(speeds[0]! * 1.0301)
      else expect(speeds[count]).toBeCloseTo(Math.max(...speeds), 9)
    }))
  })

  it('is small where states cost much beside the round trip, and large where they cost little', () => {
    const rates = [0.6, 0.6, 0.6, 0.6]
    expect(draftLength(rates, (states) => 100 + states)).toBe(4)
    expect(draftLength(rates, (states) => 20 + 10 * states)).toBeLessThan(3)
    expect(draftLength(rates, (states) => 1 + 30 * states)).toBe(0)
  })

  it('is all that there are while no time is known', () => {
    expect(draftLength([0.1, 0.1], () => undefined)).toBe(2)
  })
})

describe('times of round trips', () => {
  it('are a line through what was measured', () => {
    const times = new RoundTimes()
    for (let i = 0; i < 200; i++) times.add(1 + i % 5, 50 + 4 * (i % 5))
    expect(times.expected(1)).toBeCloseTo(50, 0)
    expect(times.expected(5)).toBeCloseTo(66, 0)
  })

  it('are unknown at first, equal for all numbers of states until several were measured, and never fall with the number', () => {
    const times = new RoundTimes()
    expect(times.expected(1)).toBeUndefined()
    for (let i = 0; i < 5; i++) times.add(1, 30)
    expect(times.expected(5)).toBeCloseTo(30, 9)
    for (let i = 0; i < 20; i++) times.add(5, 10)
    expect(times.expected(5)).toBeGreaterThanOrEqual(times.expected(1)!)
  })

  it('follow a change, and not a single stall', () => {
    const times = new RoundTimes()
    for (let i = 0; i < 40; i++) times.add(1 + i % 3, 20)
    times.add(1, 100_000)
    expect(times.expected(1)).toBeLessThan(25)
    for (let i = 0; i < 200; i++) times.add(1 + i % 3, 80)
    expect(times.expected(1)).toBeCloseTo(80, 0)
  })
})

describe('acceptance rates', () => {
  const draft = (matched: number, tokens = 4) => ({ tokens: Array.from({ length: tokens }, () => 0), source: 'text' as const, matched })

  it('come near what was accepted, for each length of the match', () => {
    const rates = new AcceptanceRates()
    for (let i = 0; i < 300; i++) {
      rates.judge(draft(1), 4, i % 2)
      rates.judge(draft(5), 4, 4)
    }
    expect(rates.of(draft(1))[0]).toBeCloseTo(0.5, 1)
    expect(rates.of(draft(5))[3]).toBeGreaterThan(0.95)
    expect(rates.of({ ...draft(1), source: 'history' })[0]).toBeLessThan(0.3)
  })

  it('count no token after the first that was not accepted, nor one that was not sent', () => {
    const rates = new AcceptanceRates()
    const before = rates.of(draft(3))
    rates.judge(draft(1), 1, 1)
    rates.judge(draft(1), 4, 0)
    expect(rates.of(draft(3))).toEqual(before)
  })

  it('are probabilities, whatever came', () => {
    fc.assert(fc.property(fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.nat(4), fc.nat(4))), (outcomes) => {
      const rates = new AcceptanceRates()
      for (const [matched, sent, accepted] of outcomes) rates.judge(draft(matched), sent, Math.min(sent, accepted))
      for (const rate of rates.of(draft(1, 6))) {
        expect(rate).toBeGreaterThan(0)
        expect(rate).toBeLessThan(1)
      }
    }))
  })
})
