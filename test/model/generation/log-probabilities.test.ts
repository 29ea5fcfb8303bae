import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { logProbabilities } from '../../../src/model/generation/log-probabilities.ts'

const anyLogits = fc.array(fc.float({ min: -30, max: 30, noNaN: true }), { minLength: 1, maxLength: 50 })
  .map((values) => Float32Array.from(values))

describe('the logarithms of probabilities', () => {
  it('are those of the softmax, and sum to one as probabilities', () => {
    fc.assert(fc.property(anyLogits, fc.nat(), (logits, at) => {
      const id = at % logits.length
      const { chosen, top } = logProbabilities(logits, id, logits.length)
      const sum = [...logits].reduce((total, logit) => total + Math.exp(logit), 0)
      expect(chosen).toBeCloseTo(Math.log(Math.exp(logits[id]!) / sum), 6)
      expect(top.reduce((total, { logProbability }) => total + Math.exp(logProbability), 0)).toBeCloseTo(1, 9)
      expect(top.find((each) => each.id === id)?.logProbability).toBe(chosen)
    }))
  })

  it('name the likeliest tokens, the likeliest first, and as many as asked for', () => {
    const { top } = logProbabilities(Float32Array.from([0, 3, -Infinity, 2]), 2, 2)
    expect(top.map(({ id }) => id)).toEqual([1, 3])
    expect(logProbabilities(Float32Array.from([0, 3]), 0, 0).top).toEqual([])
    expect(logProbabilities(Float32Array.from([0, -Infinity]), 1, 5)).toEqual({
      chosen: -Infinity, top: [{ id: 0, logProbability: 0 }, { id: 1, logProbability: -Infinity }]
    })
  })

  it('do not overflow with large logits', () => {
    expect(logProbabilities(Float32Array.from([3e38, 3e38]), 0, 0).chosen).toBeCloseTo(-Math.LN2)
  })
})
