import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { encodings } from '../../../../src/encoding.ts'
import { toFloat16 } from '../../../../src/model/float16.ts'
import { weightFormats } from '../../../../src/model/layers/weight-format.ts'
import { computeTypes, deviceKinds } from '../../../../src/model/runtime/device.ts'
import { tokenDistances } from '../../../../src/roles/client/verification/distance.ts'
import { chanceOfCheck, isWithin, limitsOf, medianOf } from '../../../../src/roles/client/verification/limits.ts'
import { compare, wrongOf, type Computation } from '../../../../src/roles/client/verification/verdict.ts'
import type { Arithmetic } from '../../../../src/roles/middle/arithmetic.ts'
import { float32, tensor, type Tensor } from '../../../../src/tensor.ts'

const HIDDEN = 4
const arithmetic = fc.record<Arithmetic>({
  weights: fc.constantFrom(...weightFormats),
  device: fc.constantFrom(...deviceKinds),
  compute: fc.constantFrom(...computeTypes)
})
const wire = fc.constantFrom(...encodings)
const FULL: Arithmetic = { weights: 'fp16', device: 'cpu', compute: 'fp32' }
const values = fc.array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: HIDDEN, maxLength: 40 * HIDDEN })
  .map((all) => all.slice(0, all.length - all.length % HIDDEN))

const states = (all: readonly number[]): Tensor[] => [float32([all.length / HIDDEN, HIDDEN], all)]
const computation = (server: string, all: readonly number[], of = FULL): Computation => ({ server, arithmetic: of, outputs: states(all) })

describe('the distance of a token', () => {
  it('is 0 for the same values, from 0 to 2, and the same from either side', () => {
    fc.assert(fc.property(values, values, (a, b) => {
      const size = Math.min(a.length, b.length)
      const [left, right] = [states(a.slice(0, size)), states(b.slice(0, size))]
      expect(tokenDistances(left, left).every((distance) => distance === 0)).toBe(true)
      const distances = tokenDistances(left, right)
      expect(distances).toEqual(tokenDistances(right, left))
      for (const distance of distances) expect(distance >= 0 && distance <= 2.000001).toBe(true)
    }))
  })

  it('is 1 for zeros, 2 for a flipped sign, and looks at each token alone', () => {
    const honest = states([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3])
    const answer = states([1, 2, 3, 4, -5, -6, -7, -8, 0, 0, 0, 0])
    expect(tokenDistances(honest, answer)).toEqual([0, 2, 1])
  })

  it('is that of the values, in whatever encoding they come', () => {
    const [a, b] = [[1, 2, 4, 8], [2, 2, 4, 8]]
    const expected = tokenDistances(states(a), states(b))
    const halves = (all: number[]): Tensor[] => [tensor('float16', [1, HIDDEN], toFloat16(Float32Array.from(all)))]
    const bytes = (all: number[]): Tensor[] => [tensor('int8', [1, HIDDEN], Int8Array.from(all, (x) => 2 * x)), float32([1], [0.5])]
    expect(tokenDistances(halves(a), halves(b))).toEqual(expected)
    expect(tokenDistances(bytes(a), bytes(b))).toEqual(expected)
  })

  it('is refused for other numbers of tokens', () => {
    expect(() => tokenDistances(states([1, 2, 3, 4]), states([1, 2, 3, 4, 5, 6, 7, 8]))).toThrow(RangeError)
  })
})

describe('the limits of distances', () => {
  it('are there for every pair of arithmetics, the same from either side, and find a flipped sign, and a text of zeros', () => {
    fc.assert(fc.property(arithmetic, arithmetic, wire, fc.integer({ min: 1, max: 100 }), (a, b, encoding, tokens) => {
      const limits = limitsOf(a, b, encoding)
      expect(limits).toEqual(limitsOf(b, a, encoding))
      expect(limits.median).toBeLessThan(limits.token)
      const honest = Array.from({ length: tokens }, () => 0)
      expect(isWithin(honest, limits)).toBe(true)
      expect(isWithin(honest.with(tokens - 1, 2), limits)).toBe(false)
      if (tokens >= 8) expect(isWithin(honest.map(() => 1), limits)).toBe(false)
    }))
  })

  it('hold for whatever stays below the middle limit, and for no window of 32 tokens whose middle one is beyond', () => {
    const limits = limitsOf(FULL, FULL, 'fp32')
    fc.assert(fc.property(fc.array(fc.double({ min: 0, max: limits.median, noNaN: true }), { maxLength: 200 }), (distances) => {
      expect(isWithin(distances, limits)).toBe(true)
      const far = Array.from({ length: 32 }, () => limits.token * 0.9)
      expect(isWithin([...distances, ...far], limits)).toBe(false)
      expect(isWithin([...far, ...distances], limits)).toBe(false)
    }))
  })

  it('are above what was measured of honest servers, and find int8 and int4 weights in place of fp16 within 32 tokens', () => {
    const of = (weights: Arithmetic['weights']): Arithmetic => ({ ...FULL, weights })
    // The greatest token, and the greatest middle of a text, of honest pairs that bench/verify.ts measured.
    const honest = [['fp16', 'fp32', 0.0011, 0.0005], ['int8', 'int8', 0.039, 0.011], ['int4', 'int4', 0.04, 0.011], ['int8', 'fp16', 0.14, 0.027],
      ['int4', 'fp16', 0.57, 0.24], ['int4', 'int8', 0.44, 0.23]] as const
    for (const [a, b, token, median] of honest)
      expect(isWithin([token, ...Array.from({ length: 31 }, () => median)], limitsOf(of(a), of(b), 'fp16'))).toBe(true)
    const products: Arithmetic = { ...FULL, compute: 'int8' }
    for (const [other, token, median] of [[products, 0.071, 0.0074], [FULL, 0.1, 0.032], [of('int8'), 0.2, 0.042]] as const)
      expect(isWithin([token, ...Array.from({ length: 31 }, () => median)], limitsOf(products, other, 'fp16'))).toBe(true)
    const limits = limitsOf(FULL, FULL, 'fp16')
    // The least middle of tokens that was measured of servers with int8 and int4 weights, and with int8 products.
    for (const median of [0.0045, 0.036, 0.015]) expect(isWithin(Array.from({ length: 32 }, () => median), limits)).toBe(false)
  })
})

describe('a third server', () => {
  const honest = [1, 2, 3, 4]
  const wrong = [1, -2, 3, -4]
  it('decides which of two is wrong, and nothing where it agrees with both or with neither', () => {
    const [a, b] = [computation('a', honest), computation('b', wrong)]
    expect(compare(a, b, 'fp32').agrees).toBe(false)
    expect(wrongOf(a, b, computation('c', honest), 'fp32')?.server).toBe('b')
    expect(wrongOf(a, b, computation('c', wrong), 'fp32')?.server).toBe('a')
    expect(wrongOf(a, b, computation('c', [4, 3, 2, 1]), 'fp32')).toBeUndefined()
    expect(wrongOf(a, a, computation('c', honest), 'fp32')).toBeUndefined()
  })

  it('never accuses one of two servers that are honest', () => {
    fc.assert(fc.property(values, arithmetic, arithmetic, wire, (all, of, other, encoding) => {
      const [a, b] = [computation('a', all, of), computation('b', all.map((value) => value * (1 + 1e-6)), other)]
      expect(compare(a, b, encoding).agrees).toBe(true)
      const liar = computation('c', all.map((value) => -value), of)
      expect(wrongOf(a, liar, b, encoding)?.server ?? 'c').toBe('c')
    }))
  })
})

describe('the chance that a server is checked', () => {
  it('is the share for one text, and grows with the texts', () => {
    expect(chanceOfCheck(0.01, 1)).toBeCloseTo(0.01)
    expect(chanceOfCheck(0.01, 100)).toBeCloseTo(0.634, 3)
    expect(chanceOfCheck(0, 1000)).toBe(0)
    expect(chanceOfCheck(1, 1)).toBe(1)
  })

  it('has the middle one of numbers, the lower one of two', () => {
    expect([medianOf([]), medianOf([3]), medianOf([4, 1]), medianOf([9, 1, 5])]).toEqual([0, 3, 1, 5])
  })
})
