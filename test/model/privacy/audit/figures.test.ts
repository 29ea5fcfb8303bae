import { describe, expect, it } from 'vitest'
import { attackFigures, priorFigures, shareOf } from '../../../../src/model/privacy/audit/figures.ts'
import { priorOutcome, tokenOutcome, type TokenOutcome } from '../../../../src/model/privacy/audit/posterior.ts'

const uniform = (size: number): number[] => Array.from({ length: size }, () => -Math.log(size))

describe('the outcome at a token', () => {
  it('is what the likelihood decides alone, and what Bayes gives with the prior', () => {
    const logPriors = [Math.log(0.9), Math.log(0.09), Math.log(0.01)]
    const outcome = tokenOutcome({ truth: 0, logLikelihoods: [0, Math.log(2), Math.log(3)], logPriors })
    expect(outcome).toMatchObject({ alone: false, withPrior: true })
    expect(Math.exp(outcome.logPosterior)).toBeCloseTo(0.9 / (0.9 + 0.18 + 0.03), 10)
  })

  it('is that of some candidates, where not all are tried', () => {
    const outcome = tokenOutcome({ truth: 7, ids: [3, 7], logLikelihoods: [-1, 0], logPriors: uniform(10) })
    expect(outcome).toMatchObject({ alone: true, withPrior: true })
    // The eight others count as being as likely as the least likely candidate.
    expect(Math.exp(outcome.logPosterior)).toBeCloseTo(1 / (1 + 9 * Math.exp(-1)), 10)
  })

  it('does not overflow where likelihoods are far apart', () => {
    const { logPosterior } = tokenOutcome({ truth: 1, logLikelihoods: [-1e9, -1e6], logPriors: uniform(2) })
    expect(logPosterior).toBe(0)
  })
})

describe('the figures of an attack', () => {
  const priors = [0.6, 0.02, 0.3, 0.04].map((probability) => ({ recovered: probability > 0.5, logPrior: Math.log(probability) }))
  const outcomes: TokenOutcome[] = [0.9, 0.5, 0.3, 0.04].map((probability, i) => ({
    alone: i < 1, withPrior: i < 2, logPosterior: Math.log(probability)
  }))

  it('are shares of all tokens and of those that nobody would guess, and the share of information that leaks', () => {
    const figures = attackFigures(priors, outcomes)
    expect([figures.alone.value, figures.withPrior.value, figures.hard?.value]).toEqual([0.25, 0.5, 0.5])
    const [before, after] = [[0.6, 0.02, 0.3, 0.04], [0.9, 0.5, 0.3, 0.04]].map((all) => all.reduce((sum, p) => sum - Math.log(p), 0))
    expect(figures.leak.value).toBeCloseTo(1 - after! / before!, 10)
    expect(priorFigures(priors)).toMatchObject({ recovered: { value: 0.25 }, hard: { value: 0 }, hardTokens: 2 })
  })

  it('have the errors of repeated draws', () => {
    expect(shareOf(50, 100).error).toBeCloseTo(0.05, 3)
    expect(shareOf(0, 100).error).toBeGreaterThan(0.005)
    const many = Array.from({ length: 400 }, (_, i) => i % 4)
    const { leak } = attackFigures(many.map((i) => priors[i]!), many.map((i) => outcomes[i]!))
    // By the delta method: the deviation of (before - after - leak before) over the mean of before and the root of the number.
    const values = priors.map(({ logPrior }, i) => -logPrior + outcomes[i]!.logPosterior - leak.value * -logPrior)
    const mean = priors.reduce((sum, { logPrior }) => sum - logPrior, 0) / 4
    const expected = Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / 4 / 400) / mean
    expect(leak.error / expected).toBeGreaterThan(0.85)
    expect(leak.error / expected).toBeLessThan(1.15)
  })

  it('have no hard tokens where the prior knows all', () => {
    const known = priors.map(() => priorOutcome([Math.log(0.9), Math.log(0.1)], 0))
    expect(attackFigures(known, outcomes).hard).toBeNull()
    expect(priorFigures(known)).toMatchObject({ hard: null, hardTokens: 0, recovered: { value: 1 } })
  })
})
