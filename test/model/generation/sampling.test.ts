import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { argmax, createSampler, type SamplingOptions } from '../../../src/model/generation/sampling.ts'

const logitsOf = (...values: number[]): Float32Array => Float32Array.from(values)
const anyLogits = fc.array(fc.oneof(fc.float({ min: -20, max: 20, noNaN: true }), fc.constantFrom(-Infinity, 0, 1)), {
  minLength: 1,
  maxLength: 60
})
  .filter((values) => values.some(Number.isFinite)).map((values) => Float32Array.from(values))

/** The ids drawn over many steps. */
function drawn (logits: Float32Array, options: Partial<SamplingOptions>, steps = 200): number[] {
  const sample = createSampler({ seed: 'seed', ...options })
  return Array.from({ length: steps }, (_, step) => sample(logits, step))
}

describe('sampling', () => {
  it('is greedy at temperature 0 and with a single candidate', () => {
    fc.assert(fc.property(anyLogits, fc.string(), fc.nat(), (logits, seed, step) => {
      const best = argmax(logits)
      expect(best).toBe([...logits].indexOf(Math.max(...logits)))
      for (const options of [{ temperature: 0 }, { topK: 1 }, { topP: 1e-9 }])
        expect(createSampler({ seed, ...options })(logits, step)).toBe(best)
    }))
  })

  it('gives the same token for the same seed and step, in any order of steps', () => {
    const logits = Float32Array.from({ length: 100 }, (_, i) => Math.sin(i))
    const forward = drawn(logits, {}, 50)
    const sample = createSampler({ seed: 'seed' })
    expect(Array.from({ length: 50 }, (_, i) => sample(logits, 49 - i)).reverse()).toEqual(forward)
    expect(drawn(logits, { seed: 'other' }, 50)).not.toEqual(forward)
    expect(new Set(forward).size).toBeGreaterThan(10)
  })

  it('never leaves the top k, nor draws what is impossible', () => {
    fc.assert(
      fc.property(
        anyLogits,
        fc.integer({ min: 1, max: 70 }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        fc.double({ min: 0.1, max: 5, noNaN: true }),
        (logits, topK, topP, temperature) => {
          const allowed = [...logits.keys()].sort((a, b) => logits[b]! === logits[a]! ? a - b : logits[b]! - logits[a]!).slice(0, topK)
          for (const id of drawn(logits, { topK, topP, temperature }, 5)) {
            expect(allowed).toContain(id)
            expect(logits[id]).not.toBe(-Infinity)
          }
        }
      )
    )
  })

  it('draws from the smallest set that reaches top-p, also in a large vocabulary', () => {
    const few = logitsOf(...[0.5, 0.3, 0.15, 0.05].map(Math.log))
    expect(new Set(drawn(few, { topP: 0.79 }))).toEqual(new Set([0, 1]))
    expect(new Set(drawn(few, { topP: 0.81 }))).toEqual(new Set([0, 1, 2]))
    const flat = new Float32Array(5000)
    const ids = drawn(flat, { topP: 0.1 }, 300)
    expect(Math.max(...ids)).toBeLessThanOrEqual(500)
    expect(Math.max(...ids)).toBeGreaterThan(450)
  })

  it('draws with the probabilities of the softmax', () => {
    const probabilities = [0.5, 0.3, 0.15, 0.05]
    const ids = drawn(logitsOf(...probabilities.map(Math.log)), {}, 20_000)
    probabilities.forEach((p, id) => {
      expect(Math.abs(ids.filter((drawnId) => drawnId === id).length / ids.length - p)).toBeLessThan(0.015)
    })
    const hot = drawn(logitsOf(0, Math.log(9)), { temperature: 2 }, 20_000)
    expect(Math.abs(hot.filter((id) => id === 1).length / hot.length - 0.75)).toBeLessThan(0.015)
  })

  it.each([{ temperature: -1 }, { temperature: NaN }, { temperature: Infinity }, { topK: -1 }, { topK: 1.5 }, { topP: 0 }, { topP: 1.1 }, {
    topP: NaN
  }])('refuses %j', (options) => {
    expect(() => createSampler({ seed: '', ...options })).toThrow(expect.objectContaining({ code: 'E_SAMPLING' }) as Error)
  })

  it('refuses logits that are not numbers', () => {
    for (const logits of [logitsOf(1, NaN), logitsOf(NaN, 1), logitsOf(-Infinity), logitsOf(Infinity, 1), logitsOf()]) {
      expect(() => createSampler({ seed: '' })(logits, 0)).toThrow(expect.objectContaining({ code: 'E_SAMPLING' }) as Error)
    }
  })
})
