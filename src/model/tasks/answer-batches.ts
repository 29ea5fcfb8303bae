import { IGNORED_TARGET, type Batch } from '../text/batches.ts'
import type { EncodedQuestion, EncodedSequence } from './read-questions.ts'

/** A sequence of a question, which is computed beside others. */
export interface AnswerItem {
  readonly question: EncodedQuestion
  readonly sequence: EncodedSequence
  /** Tokens of the sequence that are computed: the last is a target only. */
  readonly length: number
}

export interface AnswerBatchLimits {
  readonly maxTokens: number
  readonly maxSequences: number
}

/** Groups the sequences of questions, in their order, into batches of at most so many tokens and sequences. A sequence is never cut. */
export function * answerBatches (
  questions: readonly EncodedQuestion[],
  { maxTokens, maxSequences }: AnswerBatchLimits
): Generator<readonly AnswerItem[]> {
  let items: AnswerItem[] = []
  let tokens = 0
  for (const question of questions) {
    for (const sequence of question.sequences) {
      const length = question.prefix.length + sequence.ids.length - 1
      if (items.length > 0 && (tokens + length > maxTokens || items.length === maxSequences)) {
        yield items
        items = []
        tokens = 0
      }
      items.push({ question, sequence, length })
      tokens += length
    }
  }
  if (items.length > 0) yield items
}

/** Makes a batch of some sequences, each with the beginning of its question. */
export function answerBatch (items: readonly AnswerItem[]): Batch {
  const ids = items.map(({ question, sequence }) => [...question.prefix, ...sequence.ids])
  const targets = items.map(({ question, sequence }, i) => {
    const counts = [...new Uint8Array(question.prefix.length), ...sequence.lossMask]
    return ids[i]!.slice(1).map((id, at) => counts[at + 1] === 1 ? id : IGNORED_TARGET)
  })
  return {
    ids: ids.map((each) => each.slice(0, -1)),
    targets,
    lengths: items.map(({ length }) => length),
    tokens: targets.flat().filter((id) => id !== IGNORED_TARGET).length
  }
}

/** Returns the number of the likeliest answer; of equal ones the first. */
export function likeliest (logLikelihoods: readonly number[]): number {
  return logLikelihoods.reduce((best, value, i) => value > logLikelihoods[best]! ? i : best, 0)
}
