import type { Waiting } from '../../../api/fields.ts'
import type { EncodedQuestion, EncodedSequence } from '../../../model/tasks/read-questions.ts'
import { IGNORED_TARGET, type Batch } from '../../../model/text/batches.ts'
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
  for (const items of groups(questions, maxTokensPerClient)) {
    const { released, outputs } = yield * middle.compute(batchOf(items), changedByOne(items), signal)
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

interface Item {
  readonly question: EncodedQuestion
  readonly sequence: EncodedSequence
  /** Tokens of the sequence that are computed: the last is a target only. */
  readonly length: number
}

/** Groups the sequences of questions into batches of at most so many tokens. */
function * groups (questions: readonly EncodedQuestion[], maxTokens: number): Generator<readonly Item[]> {
  let items: Item[] = []
  let tokens = 0
  for (const question of questions) {
    for (const sequence of question.sequences) {
      const length = question.prefix.length + sequence.ids.length - 1
      if (items.length > 0 && (tokens + length > maxTokens || items.length === MAX_SEQUENCES)) {
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

/** Returns the tokens of the question that has the most of them: what replacing one question changes, at most. */
function changedByOne (items: readonly Item[]): number {
  const tokens = new Map<EncodedQuestion, number>()
  for (const { question, length } of items) tokens.set(question, (tokens.get(question) ?? 0) + length)
  return Math.max(...tokens.values())
}

function batchOf (items: readonly Item[]): Batch {
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
