import { modelOf, type Config } from '../../../src/model/families/index.ts'
import { answerBatch, answerBatches, likeliest } from '../../../src/model/tasks/answer-batches.ts'
import type { EncodedQuestion } from '../../../src/model/tasks/read-questions.ts'
import { statisticOf } from '../../../src/model/tasks/scoring.ts'
import { Batches } from '../../../src/model/text/batches.ts'
import { loadDatasetInThread, readQuestionsInThread } from '../../../src/model/text/threads/dataset-thread.ts'
import type { Loss } from '../../../src/model/training/client-model.ts'
import type { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import type { Problem } from './problems.ts'

/** Tokens of one run that scores: enough to keep two cores busy, and little memory. */
const LIMITS = { maxTokens: 1024, maxSequences: 64 }

/** Records that the reader reports at most. */
export interface DataSource {
  readonly model: string
  readonly config: Config
  readonly problem: Pick<Problem, 'task' | 'maxTokens' | 'metric'>
}

/** What a record came to. */
export interface Judged {
  readonly scores: number[]
  readonly losses: number[]
  readonly tokens: number[]
}

/** Generates the likeliest tokens after a prompt, as text. */
export type Answer = (prompt: readonly number[], maxNewTokens: number) => Promise<string>

/** Reads what a client learns from, as `midspan train --task` makes batches of it with the same options. */
export async function readBatches (
  { model, config, problem: { task, maxTokens } }: DataSource,
  path: string,
  { seed, sequences }: { readonly seed: string, readonly sequences: number }
): Promise<Batches> {
  // A record's last token is a target only.
  const options = { lossOn: 'completion', vocabularySize: modelOf(config).vocabularySize, maxLength: maxTokens + 1 } as const
  const { examples } = await loadDatasetInThread({ dir: model, paths: [path], task, options }, new AbortController().signal)
  return new Batches(examples, { seed, sequences, mode: 'padded', windowLength: maxTokens })
}

/** The questions of a data set that nobody learns from, as tokens. */
export class Exam {
  readonly #problem: DataSource['problem']
  readonly #questions: readonly EncodedQuestion[]
  /** Of each question, the right answer as a sequence whose loss is measured. */
  readonly #right: readonly EncodedQuestion[]

  private constructor (problem: DataSource['problem'], questions: readonly EncodedQuestion[], right: readonly EncodedQuestion[]) {
    this.#problem = problem
    this.#questions = questions
    this.#right = right
  }

  /** Reads a data file. Throws where a record of it cannot be asked: the cells would not be of the same questions. */
  static async read ({ model, config, problem }: DataSource, path: string): Promise<Exam> {
    const { task, maxTokens } = problem
    const signal = new AbortController().signal
    const options = { lossOn: 'completion', vocabularySize: modelOf(config).vocabularySize } as const
    const { questions, badLines: [bad] } = await readQuestionsInThread(
      { dir: model, paths: [path], options, task, questions: { ...options, maxTokens, seed: '0' } }, signal
    )
    if (bad !== undefined) throw new Error(`${path} line ${bad.line} ${bad.reason}`)
    if (questions.every(({ sequences }) => sequences.length > 0)) {
      const right = questions.map((question) => ({
        ...question, sequences: question.sequences.filter(({ answer }) => answer === question.references[0])
      }))
      return new Exam(problem, questions, right)
    }
    const reading = { dir: model, paths: [path], task, options: { ...options, maxLength: maxTokens + 1 } }
    const { examples } = await loadDatasetInThread(reading, signal)
    if (examples.length !== questions.length) throw new Error(`${path} has ${questions.length} questions and ${examples.length} right answers`)
    const right = questions.map((question, i) => ({ ...question, prefix: new Int32Array(), sequences: [examples[i]!] }))
    return new Exam(problem, questions, right)
  }

  /** Tokens that are scored for all questions together, and tokens that are generated at most. */
  get cost (): { readonly scored: number, readonly generated: number } {
    const scored = (questions: readonly EncodedQuestion[]): number => questions.reduce((sum, { prefix, sequences, prompt }) => {
      const answers = sequences.reduce((all, { ids }) => all + prefix.length + ids.length, 0)
      return sum + (prompt?.length ?? 0) + answers
    }, 0)
    const generates = this.#questions.some(({ prompt }) => prompt !== undefined)
    return {
      scored: scored(this.#questions) + (generates ? scored(this.#right) : 0),
      generated: generates ? this.#questions.length * (this.#problem.task.maxNewTokens ?? 0) : 0
    }
  }

  get size (): number { return this.#questions.length }

  /** Has a model answer the questions, or the first `count` of them, and judges each answer. */
  async judge (trainer: LocalTrainer, answer: Answer, count = this.size): Promise<Judged> {
    const questions = this.#questions.slice(0, count)
    const losses = await lossesOf(trainer, questions)
    const predictions: string[] = []
    for (const [i, { prompt, sequences }] of questions.entries()) {
      predictions.push(prompt === undefined
        ? sequences[likeliest(losses[i]!.map(({ lossSum }) => -lossSum))]!.answer!
        : await answer([...prompt], this.#problem.task.maxNewTokens ?? 1))
    }
    const right = questions.some(({ sequences }) => sequences.length === 0)
      ? (await lossesOf(trainer, this.#right.slice(0, count))).map(([loss]) => loss!)
      : questions.map(({ sequences, references }, i) => losses[i]![sequences.findIndex((each) => each.answer === references[0])]!)
    return {
      scores: questions.map(({ references }, i) => statisticOf(this.#problem.metric, [{ references, prediction: predictions[i]! }])([0])),
      losses: right.map(({ lossSum }) => lossSum),
      tokens: right.map(({ countedTokens }) => countedTokens)
    }
  }
}

/** Computes the loss of each sequence of some questions, question by question. */
async function lossesOf (trainer: LocalTrainer, questions: readonly EncodedQuestion[]): Promise<Loss[][]> {
  const all: Loss[] = []
  for (const items of answerBatches(questions, LIMITS)) all.push(...await trainer.losses(answerBatch(items)))
  let at = 0
  return questions.map(({ sequences }) => all.slice(at, at += sequences.length))
}
