import { describe, expect, it } from 'vitest'
import { answerBatch, answerBatches, likeliest } from '../../../src/model/tasks/answer-batches.ts'
import type { EncodedQuestion } from '../../../src/model/tasks/read-questions.ts'

/** A question of a prefix of so many tokens, with answers of two tokens each, the last of which counts. */
function question (prefix: number, answers: number): EncodedQuestion {
  return {
    line: 1,
    record: 1,
    references: ['a'],
    prefix: Int32Array.from({ length: prefix }, (_, i) => i + 1),
    sequences: Array.from({ length: answers }, (_, i) => (
      { ids: Int32Array.of(50, 60 + i), lossMask: Uint8Array.of(0, 1), answer: String(i) }))
  }
}

describe('answers in batches', () => {
  it('are as many as fit, in their order, and never cut', () => {
    const questions = [question(3, 3), question(9, 1), question(1, 2)]
    const batches = [...answerBatches(questions, { maxTokens: 10, maxSequences: 64 })].map((items) => items.map(({ length }) => length))
    expect(batches).toEqual([[4, 4], [4], [10], [2, 2]])
    expect([...answerBatches(questions, { maxTokens: 1000, maxSequences: 4 })].map(({ length }) => length)).toEqual([4, 2])
  })

  it('each begin as their question does, and count what their answer counts', () => {
    const [items = []] = answerBatches([question(2, 2)], { maxTokens: 10, maxSequences: 64 })
    expect(answerBatch(items)).toEqual({
      ids: [[1, 2, 50], [1, 2, 50]], targets: [[-100, -100, 60], [-100, -100, 61]], lengths: [3, 3], tokens: 2
    })
  })
})

it('of equally likely answers the first is taken', () => {
  expect([likeliest([-2, -1, -1]), likeliest([-1]), likeliest([-1, -2])]).toEqual([1, 0, 0])
})
