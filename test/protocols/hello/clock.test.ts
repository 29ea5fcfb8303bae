import { describe, expect, it } from 'vitest'
import { isDate } from '../../../src/protocols/hello/clock.ts'

describe('isDate', () => {
  it('takes the times that a Date can have, to the last millisecond', () => {
    const last = 8.64e15
    expect([0, last].map((ms) => [isDate(ms), new Date(ms).toISOString().length > 0])).toEqual([[true, true], [true, true]])
    expect([last + 1, -1, NaN, Infinity].map(isDate)).toEqual([false, false, false, false])
    expect(() => new Date(last + 1).toISOString()).toThrow(RangeError)
  })
})
