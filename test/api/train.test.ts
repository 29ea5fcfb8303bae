import { expect, it } from 'vitest'
import { MAX_EPOCHS, MAX_NAMED_CONTRIBUTORS, train } from '../../src/api/train.ts'

it('a run has a bounded number of passes over its data', () => {
  const accepts = (epochs: number): boolean => train.parameters.safeParse({ data: 'notes.jsonl', epochs }).success
  expect([accepts(1), accepts(MAX_EPOCHS), accepts(MAX_EPOCHS + 1), accepts(0)]).toEqual([true, true, false, false])
})

it('a run names a bounded number of contributors, and one at least', () => {
  const accepts = (count: number): boolean =>
    train.parameters.safeParse({ data: 'notes.jsonl', contributors: Array.from({ length: count }, (_, index) => `peer-${index}`) }).success
  expect([accepts(0), accepts(1), accepts(MAX_NAMED_CONTRIBUTORS), accepts(MAX_NAMED_CONTRIBUTORS + 1)]).toEqual([false, true, true, false])
})
