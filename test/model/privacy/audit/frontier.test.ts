import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { AttackFigures, PriorFigures } from '../../../../src/model/privacy/audit/figures.ts'
import { chooseSetting, leakOf, onFrontier, type Priced } from '../../../../src/model/privacy/audit/frontier.ts'

const share = (value: number, error = 0.01) => ({ value, error })
const figures = (leak: number, crossEntropy = 1): AttackFigures => ({
  alone: share(0), withPrior: share(0), hard: null, leak: share(leak), crossEntropy
})
const prior = (crossEntropy: number): PriorFigures => ({ recovered: share(0.5), hard: null, hardTokens: 0, crossEntropy })
const priced = (loss: number, leak: number, error = 0): Priced => ({ loss, leak: share(leak, error) })

describe('the leak of a setting', () => {
  it('is the larger one of hidden states and gradients', () => {
    expect(leakOf({ hidden: figures(0.3) }).value).toBe(0.3)
    expect(leakOf({ hidden: figures(0.3), gradient: figures(0.7) }).value).toBe(0.7)
    expect(leakOf({ hidden: figures(0.3), gradient: figures(0.1) }).value).toBe(0.3)
  })

  it('counts withheld tokens by what is guessed of them, where the gradients tell all of the others', () => {
    // 80 sent tokens of 1 nat each, and 20 withheld ones of 4 nats before, and 3 after.
    const withheld = {
      tokens: 20, wholeTokens: 100, figures: figures(0.25, 3), whole: figures(0.2), prior: prior(4), wholePrior: prior(1.6)
    }
    expect(leakOf({ hidden: figures(0.1), withheld }).value).toBe(0.2)
    expect(leakOf({ hidden: figures(0.1), gradient: figures(1), withheld }).value).toBeCloseTo(1 - 60 / 160, 10)
  })
})

describe('the frontier', () => {
  it('has the settings that no other one betters', () => {
    const settings = [priced(1, 1), priced(2, 0.5), priced(2.5, 0.6), priced(3, 0.1), priced(NaN, 0)]
    expect(onFrontier(settings)).toEqual([true, true, false, true, false])
  })

  it('is never empty where a loss is finite, and has nothing that another setting betters', () => {
    const setting = fc.record({ loss: fc.double({ min: 0, max: 9, noNaN: true }), leak: fc.double({ min: 0, max: 1, noNaN: true }) })
    fc.assert(fc.property(fc.array(setting, { minLength: 1, maxLength: 12 }), (drawn) => {
      const settings = drawn.map(({ loss, leak }) => priced(loss, leak))
      const frontier = settings.filter((_, i) => onFrontier(settings)[i])
      expect(frontier.length).toBeGreaterThan(0)
      for (const { loss, leak } of frontier)
        expect(settings.some((other) => other.loss < loss && other.leak.value < leak.value)).toBe(false)
    }))
  })
})

describe('the choice of a setting', () => {
  const settings = [priced(1.7, 1), priced(2, 0.4, 0.04), priced(2.2, 0.3), priced(2.4, 0.1), priced(3, 0.01)]

  it('is the least loss of those that leak little enough, with two standard errors', () => {
    expect(chooseSetting(settings, { alone: 2.65, maxLeak: 1 })).toEqual({ kind: 'found', index: 0 })
    expect(chooseSetting(settings, { alone: 2.65, maxLeak: 0.49 })).toEqual({ kind: 'found', index: 1 })
    expect(chooseSetting(settings, { alone: 2.65, maxLeak: 0.47 })).toEqual({ kind: 'found', index: 2 })
  })

  it('is none where what leaks little enough is not below alone, or nothing leaks so little', () => {
    expect(chooseSetting(settings, { alone: 2.65, maxLeak: 0.05 })).toEqual({ kind: 'none below alone' })
    expect(chooseSetting(settings, { alone: 2.65, maxLeak: 0.001 })).toEqual({ kind: 'none leaks so little' })
  })
})
