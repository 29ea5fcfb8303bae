import fc from 'fast-check'
import { expect, it } from 'vitest'
import { MAX_CONTRIBUTORS, MAX_VALUE } from '../../../../src/roles/training/aggregation/secure/constants.ts'
import {
  add,
  FRACTION_BITS,
  fromFixedPoint,
  isWithinRange,
  subtract,
  toFixedPoint
} from '../../../../src/roles/training/aggregation/secure/fixed-point.ts'

const ROUNDING = 2 ** -(FRACTION_BITS + 1)
const value = fc.float({ min: -MAX_VALUE, max: MAX_VALUE, noNaN: true })

it('represents every value in range to 2^-41, and those from 2^-17 on exactly', () => {
  fc.assert(fc.property(fc.array(value, { minLength: 1 }), (values) => {
    const back = fromFixedPoint(toFixedPoint(Float32Array.from(values)))
    for (const [index, x] of values.entries()) {
      expect(Math.abs(back[index]! - x)).toBeLessThanOrEqual(Math.abs(x) >= 2 ** -17 ? 0 : ROUNDING)
    }
  }))
})

it('sums as many values as there may be contributors without going over the edge of a word', () => {
  for (const extreme of [MAX_VALUE, -MAX_VALUE]) {
    const sum = new Uint32Array(2)
    for (let i = 0; i < MAX_CONTRIBUTORS; i++) add(sum, toFixedPoint(Float32Array.of(extreme)))
    expect([...fromFixedPoint(sum)]).toEqual([MAX_CONTRIBUTORS * extreme])
    expect(isWithinRange(fromFixedPoint(sum), MAX_CONTRIBUTORS)).toBe(true)
    expect(isWithinRange(fromFixedPoint(sum), MAX_CONTRIBUTORS - 1)).toBe(false)
  }
})

it('adds and subtracts modulo 2^64, with the carry between the halves', () => {
  const word = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
  const halves = (x: bigint): Uint32Array => Uint32Array.of(Number(x & 0xffffffffn), Number(x >> 32n))
  fc.assert(fc.property(word, word, (a, b) => {
    const [sum, difference] = [halves(a), halves(a)]
    add(sum, halves(b))
    subtract(difference, halves(b))
    expect(sum).toEqual(halves(BigInt.asUintN(64, a + b)))
    expect(difference).toEqual(halves(BigInt.asUintN(64, a - b)))
  }))
})

it('refuses what it cannot hold', () => {
  for (const bad of [NaN, Infinity, -Infinity, MAX_VALUE * 1.01, -1e30]) {
    expect(() => toFixedPoint(Float32Array.of(0, bad))).toThrow(expect.objectContaining({ code: 'E_CONTRIBUTION_RANGE' }))
  }
})
