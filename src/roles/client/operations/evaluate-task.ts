import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { likeliest } from '../../../model/tasks/answer-batches.ts'
import type { EncodedQuestion } from '../../../model/tasks/read-questions.ts'
import { resolveTask } from '../../../model/tasks/resolved-task.ts'
import { judge, type Prediction } from '../../../model/tasks/scoring.ts'
import type { Client } from '../client.ts'
import { foundIn, loadQuestions } from '../training/data.ts'
import { finite } from './finite.ts'
import { generatedAnswers } from './generated-answers.ts'
import { likelihoods } from './likelihoods.ts'
import { MiddleBatches } from './middle-batches.ts'

type TaskEvent = EventOf<'evaluateTask'>

/** What a question came to, before it is judged. */
interface Answered {
  readonly question: EncodedQuestion
  readonly prediction?: string
  /** The loss of each of the question's sequences, in nats, where they were computed. */
  readonly losses?: ReadonlyArray<{ readonly lossSum: number, readonly countedTokens: number }>
}

/**
 * Has the model answer the records of a data file as a task asks them. The records, the answers and their likelihoods stay here; the
 * servers compute the middle.
 */
export async function * evaluateTask (
  client: Client,
  { task, texts, timeoutMs, limit, after, ...data }: ParametersOf<'evaluateTask'>,
  signal: AbortSignal
): AsyncGenerator<TaskEvent> {
  const { context: { charter, paths } } = client
  const { kind, by, metrics, maxNewTokens } = resolveTask(task)
  const { questions: read, maxTokens } = await loadQuestions({ ...data, task, limit, after }, paths.model, charter, signal)
  const { questions, labels, unseenLabels } = read
  const found = foundIn(read)
  yield { type: 'start', records: questions.length, ...(labels === undefined ? {} : { labels, unseenLabels }), ...found }
  const startedAtMs = performance.now()
  const predictions: Prediction[] = []
  let traffic = { sentBytes: 0, receivedBytes: 0 }
  const middle = new MiddleBatches(client, timeoutMs)
  try {
    const answers = by === 'generation'
      ? generatedAnswers(client, questions, { maxNewTokens, maxTokens, texts, timeoutMs }, signal)
      : likelihoods(client, questions, middle, signal)
    for await (const event of answers) {
      if ('traffic' in event) traffic = event.traffic
      if ('type' in event) yield event
      if (!('question' in event)) continue
      const { file, line, record, ...result } = judged(event)
      predictions.push(result)
      const { choices: _choices, source: _source, ...shown } = result
      yield { type: 'prediction', record, ...(file === undefined ? {} : { file }), line, kind, metrics, ...shown }
    }
    if (by !== 'generation') traffic = middle.traffic
  } finally {
    await middle.close()
  }
  yield {
    type: 'result',
    kind,
    ...judge(kind, metrics, predictions, String(data.seed)),
    seconds: (performance.now() - startedAtMs) / 1000,
    ...found,
    ...traffic
  }
}

interface Judged extends Prediction, Pick<EncodedQuestion, 'file' | 'line' | 'record'> {
  readonly logLikelihoods?: Readonly<Record<string, number | null>>
}

/** Returns the answer that was generated, or the likeliest of those that were compared; or the loss where there is no answer. */
function judged ({ question: { file, line, record, references, sequences, source }, prediction, losses = [] }: Answered): Judged {
  const place = { ...(file === undefined ? {} : { file }), line, record, references }
  if (prediction !== undefined) return { ...place, prediction, source }
  const answers = sequences.flatMap(({ answer }) => answer === undefined ? [] : [answer])
  if (answers.length === 0) {
    const sum = (of: (loss: typeof losses[number]) => number): number => losses.reduce((total, loss) => total + of(loss), 0)
    return { ...place, loss: sum(({ lossSum }) => lossSum), tokens: sum(({ countedTokens }) => countedTokens) }
  }
  const likelihoodsOf = answers.map((answer, i) => [answer, -(losses[i]?.lossSum ?? NaN)] as const)
  return {
    ...place,
    prediction: answers[likeliest(likelihoodsOf.map(([, value]) => value))]!,
    logLikelihoods: Object.fromEntries(likelihoodsOf.map(([answer, value]) => [answer, finite(value)])),
    choices: answers.length
  }
}
