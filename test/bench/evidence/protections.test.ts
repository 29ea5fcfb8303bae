import { expect, it } from 'vitest'
import type { Cell, Leak } from '../../../bench/support/evidence/cells.ts'
import { parseProtections, protectedSystem, UNPROTECTED } from '../../../bench/support/evidence/protections.ts'
import { systemsOf } from '../../../bench/support/evidence/run.ts'
import { summarise } from '../../../bench/support/evidence/summary.ts'

const protections = parseProtections('noise:0.1,withhold:rare:0.5%')

function cell (system: string, seed: number, right: number, more: Partial<Cell> = {}): Cell {
  return {
    problem: 'colours', system, seed, scores: [right], losses: [1], tokens: [1], trainingSeconds: 1, judgingSeconds: 1, trainingLoss: 1, ...more
  }
}

function leak (recovered: number, withheldShare = 0): Leak {
  return { recovered, recoveredError: 0.1, leak: recovered, leakError: 0.1, withheldShare, tokens: 10 }
}

it('protections are read from the command line, and others are refused', () => {
  expect(protections).toEqual([{ noise: 0.1 }, { noise: 0, withhold: 'rare:0.5%' }])
  expect([UNPROTECTED, ...protections].map(protectedSystem)).toEqual(['federated', 'noise 0.1', 'withheld rare:0.5%'])
  for (const wrong of ['noise:0', 'noise:much', 'withhold:', 'seal:1', 'noise'])
    expect(() => parseProtections(wrong), wrong).toThrow(`--protections: ${wrong} is neither`)
})

it('only the data sets that are named have protected federations', () => {
  const plan = { clients: 1, protections, protectedProblems: ['colours'] }
  expect(systemsOf(plan, 'colours')).toEqual(['centralised', 'federated', 'alone 1', 'noise 0.1', 'withheld rare:0.5%'])
  expect(systemsOf(plan, 'shapes')).toEqual(['centralised', 'federated', 'alone 1'])
})

it('what leaks stands beside what would leak without noise, and a federation is compared on the seeds that both have', () => {
  const { leaks, differences } = summarise('colours', [
    cell('federated', 1, 1), cell('federated', 2, 0),
    cell('noise 0.1', 1, 0, { leak: leak(0.5), unprotectedLeak: leak(1) }), cell('withheld names', 1, 1, { leak: leak(0.25, 0.75) })
  ])
  expect(leaks?.map(({ system, recovered, withheldShare }) => [system, recovered, withheldShare]))
    .toEqual([['federated', 1, 0], ['noise 0.1', 0.5, 0], ['withheld names', 0.25, 0.75]])
  expect(differences.find(({ of }) => of === 'noise 0.1')?.score.value).toBe(-1)
})
