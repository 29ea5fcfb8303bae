import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { attackGaps, gapOutcome, gapsIn, type Filling, type GappedSequence, type InfillOutcomes } from '../../../../src/model/privacy/audit/infill.ts'
import { NgramPrior } from '../../../../src/model/privacy/audit/ngram-prior.ts'
import type { Prior } from '../../../../src/model/privacy/audit/prior.ts'
import { sentTokensCheck } from '../../../../src/model/privacy/audit/self-checks.ts'

const signal = new AbortController().signal
const VOCABULARY = 12

/** Behind 1 comes 5 more often than 6; 7 comes behind 5, and 8 behind 6. */
const texts = [...Array.from({ length: 6 }, () => [0, 1, 5, 7]), ...Array.from({ length: 4 }, () => [0, 1, 6, 8])]
const prior = new NgramPrior(texts, VOCABULARY, 'a text')

async function attacked (sequences: readonly GappedSequence[], by: Prior = prior): Promise<InfillOutcomes> {
  const attacking = attackGaps(by, sequences, signal)
  let next = await attacking.next()
  while (next.done !== true) next = await attacking.next()
  return next.value
}

describe('guesses of withheld words', () => {
  it('are by what stands behind a gap as well as before it', async () => {
    const { outcomes: [outcome], priors } = await attacked([{ ids: [0, 1, 6, 8], isSent: [1, 1, 0, 1], positions: [1, 2, 3] }])
    expect(outcome).toMatchObject({ alone: false, withPrior: true })
    expect(outcome!.logPosterior).toBeGreaterThan(priors[0]!.logPrior)
  })

  it('stand in the place of a gap when the next one is attacked, and not the words themselves', async () => {
    const longer = [...Array.from({ length: 6 }, () => [0, 1, 5, 2, 9]), ...Array.from({ length: 4 }, () => [0, 1, 6, 2, 10])]
    const sequence = { ids: [0, 1, 6, 2, 10], isSent: [1, 1, 0, 1, 0], positions: [2, 4] }
    const { outcomes, priors } = await attacked([sequence], new NgramPrior(longer, VOCABULARY, 'texts'))
    expect(outcomes.map(({ withPrior }) => withPrior)).toEqual([false, false])
    expect(priors.map(({ recovered }) => recovered)).toEqual([false, true])
    // The posterior is with the words before known, so that those of a text add up.
    expect(outcomes[1]!.logPosterior).toBeGreaterThan(Math.log(0.5))
  })

  it('are the same whatever stands in a gap, but for whether they are right', async () => {
    const guesses = await Promise.all([5, 6].map(async (id) =>
      await attacked([{ ids: [0, 1, id, 7], isSent: [1, 1, 0, 1], positions: [2] }])))
    expect(guesses.map(({ outcomes }) => outcomes[0]!.withPrior)).toEqual([true, false])
  })

  it('tell the posterior of each token after those before it, and leave room for fillings that were not tried', () => {
    const filling = (ids: number[], before: number, behind: number): Filling =>
      ({ ids, logBefore: Math.log(before), logBehind: Math.log(behind) })
    const fillings = [filling([1, 2], 0.3, 0.5), filling([1, 3], 0.2, 0.1), filling([4, 2], 0.1, 0.9)]
    const rest = 0.4 * 0.1
    const all = 0.15 + 0.02 + 0.09 + rest
    expect(gapOutcome(fillings, 0, [1, 2])).toMatchObject({ alone: true, withPrior: true })
    expect(gapOutcome(fillings, 0, [1, 2]).logPosterior).toBeCloseTo(Math.log(0.17 / all), 10)
    expect(gapOutcome(fillings, 1, [1, 2]).logPosterior).toBeCloseTo(Math.log(0.15 / 0.17), 10)
    expect(gapOutcome(fillings, 1, [1, 3])).toMatchObject({ alone: false, withPrior: false })
  })

  it('have finite posteriors however unlikely the right filling is', () => {
    const log = fc.double({ min: -1e6, max: 0, noNaN: true })
    fc.assert(fc.property(fc.array(fc.tuple(log, log), { minLength: 1, maxLength: 8 }), (logs) => {
      const fillings = logs.map(([logBefore, logBehind], i) => ({ ids: [i], logBefore, logBehind }))
      const { logPosterior } = gapOutcome(fillings, 0, [0])
      expect(Number.isFinite(logPosterior)).toBe(true)
      expect(logPosterior).toBeLessThanOrEqual(1e-9)
    }))
  })

  it('are of each run of withheld tokens behind a sent one', () => {
    expect(gapsIn([{ ids: [1, 2, 3, 4, 5], isSent: [1, 0, 0, 1, 0] }, { ids: [1, 2], isSent: [1, 1] }])).toBe(2)
  })
})

describe('the check of what is sent', () => {
  it('fails where a withheld token is among it', () => {
    const whole = { ids: [1, 2, 3], isSent: [1, 0, 1] }
    expect(sentTokensCheck([{ whole, sent: { ids: [1, 3] } }]).passed).toBe(true)
    expect(sentTokensCheck([{ whole, sent: { ids: [1, 2, 3] } }]).passed).toBe(false)
  })
})
