import { expect, it } from 'vitest'
import { unsummableBecause, type SummableRounds } from '../../../src/protocols/charter/schema.ts'

const summable: SummableRounds = {
  aggregation: { mode: 'secure', minContributors: 3 },
  strategy: 'client-batch',
  ends: { mode: 'average' },
  gradientNormScope: 'party',
  inputBlocks: { min: 1, max: 1 },
  outputBlocks: { min: 2, max: 2 },
  maxClients: 3
}

it('lets contributions be summed securely where every block has all clients for contributors', () => {
  expect(unsummableBecause(summable)).toBeUndefined()
  expect(unsummableBecause({ ...summable, ends: { mode: 'shared' }, gradientNormScope: 'global' })).toBeUndefined()
})

it.each([
  ['clients may hold different blocks', { outputBlocks: { min: 1, max: 2 } }],
  ['with personal ends', { ends: { mode: 'personal' } }],
  ['with the strategy sequential', { strategy: 'sequential', ends: { mode: 'shared' } }],
  ['with a global gradient norm', { gradientNormScope: 'global' }],
  ['a sum takes 3 clients', { maxClients: 2 }]
] satisfies Array<[string, Partial<SummableRounds>]>)('says that %s', (reason, changes) => {
  expect(unsummableBecause({ ...summable, ...changes })).toContain(reason)
  expect(unsummableBecause({ ...summable, ...changes, aggregation: { mode: 'plain' } })).toBeUndefined()
})
