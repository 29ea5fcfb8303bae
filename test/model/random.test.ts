import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { permutation, SeededRandom } from '../../src/model/random.ts'

describe('seeded random numbers', () => {
  it('are the same for the same seed', () => {
    const [a, b, c] = ['x', 'x', 'y'].map((seed) => {
      const random = new SeededRandom(seed)
      return Array.from({ length: 10 }, () => random.nextUint32())
    })
    expect(a).toEqual(b)
    expect(a).not.toEqual(c)
  })

  it('stay in their ranges and spread evenly over them', () => {
    const random = new SeededRandom('even')
    const counts = new Uint32Array(7)
    let sum = 0
    for (let i = 0; i < 70_000; i++) {
      counts[random.below(7)]!++
      sum += random.nextFloat()
    }
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(500)
    expect(Math.abs(sum / 70_000 - 0.5)).toBeLessThan(0.01)
  })
})

describe('a permutation', () => {
  it('holds every number once', () => {
    fc.assert(fc.property(fc.nat(200), fc.string(), (count, seed) => {
      expect([...permutation(count, seed)].sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i))
    }))
  })
})
