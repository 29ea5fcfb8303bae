import { describe, expect, it } from 'vitest'
import { fitPlan, type RecordCost } from '../../../bench/support/evidence/plan.ts'

const costs: readonly RecordCost[] = [
  { name: 'classify', trainTokens: 40, scoredTokens: 500, generatedTokens: 0, trainRecords: 1000, testRecords: 480, federations: 1 },
  { name: 'choose', trainTokens: 100, scoredTokens: 300, generatedTokens: 0, trainRecords: 2000, testRecords: 900, federations: 1 },
  { name: 'summarize', trainTokens: 180, scoredTokens: 320, generatedTokens: 40, trainRecords: 100, testRecords: 110, federations: 1 }
]
const speeds = { training: 300, scoring: 900, generation: 20 }

describe('a plan of the evidence', () => {
  it('fits into its minutes, and uses most of them', () => {
    for (const minutes of [30, 60, 120]) {
      const { seconds } = fitPlan({ minutes, clients: 2, seeds: 3 }, speeds, costs)
      expect(seconds).toBeLessThanOrEqual(minutes * 60 * 0.9)
      expect(seconds).toBeGreaterThan(minutes * 60 * 0.5)
    }
  })

  it('has more rounds and questions where there is more time or a faster machine, and never more than the data has', () => {
    const small = fitPlan({ minutes: 30, clients: 2, seeds: 3 }, speeds, costs).problems
    const long = fitPlan({ minutes: 90, clients: 2, seeds: 3 }, speeds, costs).problems
    const tenfold = { training: 3000, scoring: 9000, generation: 200 }
    const fast = fitPlan({ minutes: 30, clients: 2, seeds: 3 }, tenfold, costs).problems
    for (const { name, testRecords, trainRecords } of costs) {
      for (const larger of [long[name]!, fast[name]!]) {
        expect(larger.rounds).toBeGreaterThan(small[name]!.rounds)
        expect(larger.testRecords).toBeGreaterThan(small[name]!.testRecords)
        expect(larger.testRecords).toBeLessThanOrEqual(testRecords)
        expect(larger.perClient * 2).toBeLessThanOrEqual(trainRecords)
      }
    }
  })

  it('is the smallest one where there is no time at all', () => {
    const { problems } = fitPlan({ minutes: 0, clients: 2, seeds: 3 }, speeds, costs)
    for (const { rounds, testRecords } of Object.values(problems)) expect([rounds, testRecords]).toEqual([2, 8])
  })
})
