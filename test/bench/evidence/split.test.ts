import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { dirichlet, splitOver, type Split } from '../../../bench/support/evidence/split.ts'
import { SeededRandom } from '../../../src/model/random.ts'

const items = Array.from({ length: 120 }, (_, i) => ({ group: `group ${i % 6}`, number: i }))
const numbers = (shares: ReadonlyArray<ReadonlyArray<{ readonly number: number }>>): number[] =>
  shares.flat().map(({ number }) => number).sort((a, b) => a - b)

describe('a split over clients', () => {
  it('gives each record to one client, whatever it splits by, and the same again for the same seed', () => {
    const splits = fc.constantFrom<Split>({ by: 'iid' }, { by: 'field' }, { by: 'dirichlet', alpha: 0.5 }, { by: 'dirichlet', alpha: 10 })
    fc.assert(fc.property(splits, fc.integer({ min: 1, max: 4 }), fc.string(), (split, clients, seed) => {
      const shares = splitOver(items, clients, split, seed)
      expect(shares).toHaveLength(clients)
      expect(numbers(shares)).toEqual(items.map(({ number }) => number))
      expect(splitOver(items, clients, split, seed)).toEqual(shares)
    }), { numRuns: 50 })
  })

  it('by a field gives each value to one client, as many values to each, and others with another seed', () => {
    const groupsOf = (seed: string): string[][] =>
      splitOver(items, 2, { by: 'field' }, seed).map((share) => [...new Set(share.map(({ group }) => group))].sort())
    const [first, second] = groupsOf('1')
    expect([first!.length, second!.length]).toEqual([3, 3])
    expect(new Set([...first!, ...second!]).size).toBe(6)
    expect(['1', '2', '3', '4'].map((seed) => groupsOf(seed).join(' and '))).not.toEqual(Array(4).fill(groupsOf('1').join(' and ')))
  })

  it('by Dirichlet is the more uneven the smaller alpha is', () => {
    const greatestShare = (alpha: number): number => {
      const shares = Array.from({ length: 20 }, (_, seed) => splitOver(items, 2, { by: 'dirichlet', alpha }, String(seed)))
      const ofGroups = shares.flatMap(([first]) => [0, 1, 2, 3, 4, 5].map((i) => first!.filter(({ group }) => group === `group ${i}`).length / 20))
      return ofGroups.reduce((sum, share) => sum + Math.max(share, 1 - share), 0) / ofGroups.length
    }
    expect(greatestShare(0.1)).toBeGreaterThan(0.85)
    expect(greatestShare(100)).toBeLessThan(0.6)
  })

  it('draws shares that add up to 1 and average to equal ones, of the smallest alpha too', () => {
    const random = new SeededRandom('dirichlet')
    for (const alpha of [1e-3, 0.3, 5]) {
      const draws = Array.from({ length: 2000 }, () => dirichlet(3, alpha, random))
      for (const draw of draws) expect(draw.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 9)
      expect(draws.reduce((sum, [first]) => sum + first!, 0) / draws.length).toBeCloseTo(1 / 3, 1)
    }
  })

  it('leaves no client with less than its least, and says where that cannot be', () => {
    for (let seed = 0; seed < 20; seed++) {
      const shares = splitOver(items, 3, { by: 'dirichlet', alpha: 0.05 }, String(seed), 10)
      expect(Math.min(...shares.map(({ length }) => length))).toBeGreaterThanOrEqual(10)
    }
    expect(() => splitOver(items, 4, { by: 'iid' }, '0', 31)).toThrow('too few')
    expect(() => splitOver(items.map((item) => ({ ...item, group: '' })), 2, { by: 'field' }, '0')).toThrow('no split')
  })
})
