import { expect, it } from 'vitest'
import { MAX_EPOCHS, train } from '../../src/api/train.ts'

it('a run has a bounded number of passes over its data', () => {
  const accepts = (epochs: number): boolean => train.parameters.safeParse({ data: 'notes.jsonl', epochs }).success
  expect([accepts(1), accepts(MAX_EPOCHS), accepts(MAX_EPOCHS + 1), accepts(0)]).toEqual([true, true, false, false])
})
