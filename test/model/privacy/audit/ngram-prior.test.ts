import { describe, expect, it } from 'vitest'
import { NgramPrior } from '../../../../src/model/privacy/audit/ngram-prior.ts'

describe('n-grams', () => {
  const prior = new NgramPrior([[1, 2, 3, 4, 1, 2, 3, 5]], 8, 'a text')

  it('give probabilities of all tokens that add up to 1, those that were never seen included', () => {
    for (const sequence of [[7, 0], [1, 2, 0], [1, 2, 3, 0], [6, 3, 0]]) {
      const next = prior.after(sequence, sequence.length - 1)
      expect(next).toHaveLength(8)
      expect(next.reduce((sum, log) => sum + Math.exp(log), 0)).toBeCloseTo(1, 5)
      expect(Math.exp(next[7]!)).toBeGreaterThan(0)
    }
  })

  it('interpolate contexts as Witten and Bell do', () => {
    // No token: each of five kinds in eight; equal probabilities have 5 / 13.
    const first = prior.after([0], 0)
    expect(Math.exp(first[1]!)).toBeCloseTo(2 / 13 + 5 / 13 / 8, 6)
    // After 4, which is known alone: 1 came once of once, so half of it is counted.
    const after = prior.after([4, 0], 1)
    expect(Math.exp(after[1]!)).toBeCloseTo(1 / 2 + 1 / 2 * (2 / 13 + 5 / 13 / 8), 6)
  })

  it('yield a prediction for each token but the first', async () => {
    const all = await Array.fromAsync(prior.next([1, 2, 3]))
    expect(all).toHaveLength(2)
    expect(all[1]).toEqual(prior.after([1, 2, 3], 2))
  })
})
