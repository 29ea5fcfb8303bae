import type { Waiting } from '../../../api/fields.ts'
import { answerBatch, answerBatches, type AnswerItem } from '../../../model/tasks/answer-batches.ts'
import type { EncodedQuestion } from '../../../model/tasks/read-questions.ts'
import type { Loss } from '../../../model/training/client-model.ts'
import { MAX_SEQUENCES } from '../../../protocols/train/constants.ts'
import type { Client } from '../client.ts'
import { lossesOf } from '../training/evaluation.ts'
import type { MiddleBatches } from './middle-batches.ts'

/** A question with the loss of each of its sequences. */
export interface Compared {
  readonly question: EncodedQuestion
  readonly losses: readonly Loss[]
}

/**
 * Computes the loss of each sequence of some questions, as many at once as the charter allows, and yields the questions in their order.
 * Which sequences are computed together follows from the questions alone.
 */
export async function * likelihoods (
  { context: { charter: { training: { maxTokensPerClient } } }, runtime }: Client,
  questions: readonly EncodedQuestion[],
  middle: MiddleBatches,
  signal: AbortSignal
): AsyncGenerator<Waiting | Compared> {
  const done = new Map<EncodedQuestion, Loss[]>()
  for (const items of answerBatches(questions, { maxTokens: maxTokensPerClient, maxSequences: MAX_SEQUENCES })) {
    const { released, outputs } = yield * middle.compute(answerBatch(items), changedByOne(items), signal)
    const losses = await lossesOf(runtime, released, outputs)
    for (const [i, { question }] of items.entries()) {
      const own = done.get(question) ?? []
      done.set(question, [...own, losses[i]!])
      if (own.length + 1 < question.sequences.length) continue
      done.delete(question)
      yield { question, losses: [...own, losses[i]!] }
    }
  }
}

/** Returns the tokens of the question that has the most of them: what replacing one question changes, at most. */
function changedByOne (items: readonly AnswerItem[]): number {
  const tokens = new Map<EncodedQuestion, number>()
  for (const { question, length } of items) tokens.set(question, (tokens.get(question) ?? 0) + length)
  return Math.max(...tokens.values())
}
