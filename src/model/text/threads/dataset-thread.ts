import type { Worker } from 'node:worker_threads'
import type { Task } from '../../../api/task.ts'
import type { Config } from '../../families/index.ts'
import type { WithholdRule } from '../../privacy/withholding.ts'
import type { EncodedQuestion, QuestionOptions, Questions } from '../../tasks/read-questions.ts'
import type { Dataset, DatasetOptions, DatasetTotals, Example, FirstRecords } from '../dataset.ts'
import { errorOf, type ThreadFailure } from './failure.ts'
import { startThread } from './thread.ts'

/** What a thread reads. */
export interface DatasetTask {
  /** The Hugging Face directory whose tokenizer encodes the data. */
  readonly dir: string
  /** The config.json of a model that reads prompts in both directions: records are checked for what it needs of them. */
  readonly config?: Config
  readonly paths: readonly string[]
  readonly options: Omit<DatasetOptions, 'fault' | 'reader'>
  /** The task that the records are learnt for, where they are not learnt as they are. */
  readonly task?: Task | undefined
  /** How many records to read, where not all are wanted. */
  readonly first?: number
  /** Whether the records are wanted as questions of the task, and how they are made. */
  readonly questions?: Omit<QuestionOptions, 'fault'>
  /** Marks the tokens that are withheld. */
  readonly withhold?: readonly WithholdRule[]
  /** Whether rules that mark nothing are right as well, as on data that is measured. */
  readonly mayMarkNothing?: boolean
}

export type DatasetAnswer =
  /** The next examples, one after another in `ids`, `lossMask` and, with rules for that, `withheld`. */
  | {
    readonly kind: 'examples'
    readonly ids: Int32Array
    readonly lossMask: Uint8Array
    readonly withheld?: Uint8Array
    readonly lengths: Int32Array
  }
  | { readonly kind: 'end', readonly totals: DatasetTotals }
  | { readonly kind: 'first', readonly records: FirstRecords }
  /** The next questions. */
  | { readonly kind: 'questions', readonly questions: readonly EncodedQuestion[] }
  | { readonly kind: 'asked', readonly totals: Omit<Questions, 'questions'> }
  | { readonly kind: 'failed', readonly failure: ThreadFailure }

/**
 * A thread is kept this long for the next data set: to start one takes about half a second of a core. Who trains or evaluates in turns
 * gives the next command within a minute.
 */
const IDLE_MS = 60_000

/** Threads that are kept at once, each of them 30 MB: a process that runs several clients reads for all of them at the same time. */
const MAX_IDLE = 4

/**
 * Reads and encodes data files in a thread of their own, which ends when the signal aborts. Throws as `loadDataset` does, and
 * TokenizerError.
 */
export async function loadDatasetInThread (task: Omit<DatasetTask, 'first'>, signal: AbortSignal): Promise<Dataset> {
  const examples: Example[] = []
  const totals = await run<DatasetTotals>(task, (answer) => {
    if (answer.kind === 'examples') for (const example of examplesIn(answer)) examples.push(example)
    return answer.kind === 'end' ? answer.totals : undefined
  }, signal)
  return { examples, ...totals }
}

/** Reads the first records in a thread of their own. Throws as `firstRecords` does, and TokenizerError. */
export async function firstRecordsInThread (task: DatasetTask & { readonly first: number }, signal: AbortSignal): Promise<FirstRecords> {
  return await run(task, (answer) => answer.kind === 'first' ? answer.records : undefined, signal)
}

/** Reads data files as questions of a task in a thread of their own. Throws as `readQuestions` does, and TokenizerError. */
export async function readQuestionsInThread (
  task: DatasetTask & Required<Pick<DatasetTask, 'questions' | 'task'>>,
  signal: AbortSignal
): Promise<Questions> {
  const questions: EncodedQuestion[] = []
  const totals = await run<Omit<Questions, 'questions'>>(task, (answer) => {
    if (answer.kind === 'questions') questions.push(...answer.questions)
    return answer.kind === 'asked' ? answer.totals : undefined
  }, signal)
  return { questions, ...totals }
}

/** Runs a task until `take` returns its result. */
async function run<Result> (task: DatasetTask, take: (answer: DatasetAnswer) => Result | undefined, signal: AbortSignal): Promise<Result> {
  signal.throwIfAborted()
  const thread = DatasetThread.take()
  const { promise, resolve, reject } = Promise.withResolvers<Result>()
  const stop = (): void => {
    reject(signal.reason as Error)
    thread.end()
  }
  signal.addEventListener('abort', stop, { once: true })
  thread.begin(task, (answer) => {
    if (answer.kind === 'failed') return reject(errorOf(answer.failure))
    const result = take(answer)
    if (result !== undefined) resolve(result)
  }, reject)
  try {
    return await promise
  } finally {
    signal.removeEventListener('abort', stop)
    thread.release()
  }
}

/** A thread that reads one data set at a time. */
class DatasetThread {
  /** The threads that wait for work, the one that waits the shortest last. */
  static readonly #idle: DatasetThread[] = []
  readonly #worker: Worker
  #onAnswer: (answer: DatasetAnswer) => void = () => {}
  #onEnd: (error: Error) => void = () => {}
  #ended = false
  #timer: NodeJS.Timeout | undefined

  private constructor () {
    this.#worker = startThread<DatasetAnswer>('dataset-worker', undefined, {
      onAnswer: (answer) => { this.#onAnswer(answer) },
      onEnd: (error) => {
        this.#forget()
        this.#onEnd(error)
      }
    })
  }

  /** Returns a thread that waits for work, or starts one. The caller releases it. */
  static take (): DatasetThread {
    const thread = this.#idle.pop() ?? new DatasetThread()
    clearTimeout(thread.#timer)
    return thread
  }

  begin (task: DatasetTask, onAnswer: (answer: DatasetAnswer) => void, onEnd: (error: Error) => void): void {
    this.#onAnswer = onAnswer
    this.#onEnd = onEnd
    this.#worker.ref()
    this.#worker.postMessage(task)
  }

  /** Keeps the thread for a while, where few are kept yet. */
  release (): void {
    if (this.#ended) return
    if (DatasetThread.#idle.length === MAX_IDLE) return this.end()
    this.#worker.unref()
    this.#timer = setTimeout(() => { this.end() }, IDLE_MS).unref()
    DatasetThread.#idle.push(this)
  }

  /** Ends the thread, whatever it is doing. */
  end (): void {
    this.#forget()
    void this.#worker.terminate()
  }

  #forget (): void {
    this.#ended = true
    const at = DatasetThread.#idle.indexOf(this)
    if (at >= 0) DatasetThread.#idle.splice(at, 1)
  }
}

function * examplesIn ({ ids, lossMask, withheld, lengths }: Extract<DatasetAnswer, { kind: 'examples' }>): Generator<Example> {
  let at = 0
  for (const length of lengths) {
    yield {
      ids: ids.subarray(at, at + length),
      lossMask: lossMask.subarray(at, at + length),
      ...(withheld === undefined ? {} : { withheld: withheld.subarray(at, at + length) })
    }
    at += length
  }
}
