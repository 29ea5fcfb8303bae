// A thread that reads one data set after another.
import { parentPort } from 'node:worker_threads'
import type { Config } from '../../families/index.ts'
import { readQuestions, taskReader, type EncodedQuestion } from '../../tasks/read-questions.ts'
import { resolveTask, TaskError } from '../../tasks/resolved-task.ts'
import {
  checkMarks, firstRecords, firstRecordsWithheld, markerOf, readDataset, type DatasetOptions, type Example
} from '../dataset.ts'
import { loadTokenizer } from '../load.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { DatasetAnswer, DatasetTask } from './dataset-thread.ts'
import { failureOf } from './failure.ts'
import type { Said } from './thread.ts'

/** Tokens that are handed over at once: a copy of this many takes a fraction of a millisecond. */
const CHUNK_TOKENS = 64 * 1024

/** Questions that are handed over at once. */
const CHUNK_QUESTIONS = 256

const port = parentPort!

function say (said: Said<DatasetAnswer>, moved: readonly ArrayBuffer[] = []): void {
  port.postMessage(said, moved)
}

/** Hands examples over in chunks, so that the thread holds few of them. */
class Chunks {
  #examples: Example[] = []
  #tokens = 0

  readonly add = (example: Example): void => {
    this.#examples.push(example)
    this.#tokens += example.ids.length
    if (this.#tokens >= CHUNK_TOKENS) this.flush()
  }

  flush (): void {
    const ids = new Int32Array(this.#tokens)
    const lossMask = new Uint8Array(this.#tokens)
    const withheld = this.#examples.some((example) => example.withheld !== undefined) ? new Uint8Array(this.#tokens) : undefined
    const lengths = Int32Array.from(this.#examples, ({ ids }) => ids.length)
    let at = 0
    for (const example of this.#examples) {
      ids.set(example.ids, at)
      lossMask.set(example.lossMask, at)
      if (example.withheld !== undefined) withheld?.set(example.withheld, at)
      at += example.ids.length
    }
    say({ answer: { kind: 'examples', ids, lossMask, lengths, ...(withheld === undefined ? {} : { withheld }) } }, [
      ids.buffer, lossMask.buffer, lengths.buffer, ...(withheld === undefined ? [] : [withheld.buffer])
    ])
    this.#examples = []
    this.#tokens = 0
  }
}

/** What is wrong with the prompt of some ids, if anything: a text may hold special tokens of its own. */
async function promptFault (config: Config): Promise<DatasetOptions['fault']> {
  const { modelOf, PromptError } = await import('../../families/index.ts') // half of what this thread would take to start
  const { prompts } = modelOf(config)
  return (ids) => {
    try {
      prompts?.context([...ids], 'read')
      return undefined
    } catch (error) {
      if (error instanceof PromptError) return 'has no mask token before the end of its prompt'
      throw error
    }
  }
}

async function read (task: DatasetTask): Promise<void> {
  const tokenizer = await loadTokenizer(task.dir)
  const fault = task.config === undefined ? undefined : await promptFault(task.config)
  if (task.questions !== undefined) return await readAsQuestions(task, tokenizer, fault)
  const { paths, first, withhold } = task
  const { columns } = task.options
  const reader = task.task === undefined
    ? undefined
    : taskReader(resolveTask(task.task), { chatInstructions: tokenizer.hasChatTemplate, columns })
  const options: DatasetOptions = { ...task.options, reader, ...(fault === undefined ? {} : { fault }) }
  if (first !== undefined) {
    const records = withhold === undefined
      ? await firstRecords(paths, first, tokenizer, options)
      : await firstRecordsWithheld(paths, first, tokenizer, options, withhold)
    return say({ answer: { kind: 'first', records } })
  }
  const chunks = new Chunks()
  const marker = withhold === undefined ? undefined : await markerOf(paths, tokenizer, options, withhold)
  const marking = marker === undefined ? {} : { mark: (ids: Int32Array) => marker.mark(ids) }
  const totals = await readDataset(paths, tokenizer, { ...options, ...marking }, chunks.add)
  if (marker !== undefined) checkMarks(marker.totals, { mayMarkNothing: task.mayMarkNothing === true })
  chunks.flush()
  say({ answer: { kind: 'end', totals } })
}

async function readAsQuestions ({ paths, task, questions: given }: DatasetTask, tokenizer: Tokenizer, fault: DatasetOptions['fault']): Promise<void> {
  if (task === undefined || given === undefined) throw new TaskError('there is no task to ask the records for')
  const options = { ...given, ...(fault === undefined ? {} : { fault }) }
  const { questions, ...totals } = await readQuestions(paths, tokenizer, resolveTask(task), options)
  for (const chunk of chunksOf(questions)) say({ answer: { kind: 'questions', questions: chunk } })
  say({ answer: { kind: 'asked', totals } })
}

function * chunksOf (questions: readonly EncodedQuestion[]): Generator<readonly EncodedQuestion[]> {
  for (let at = 0; at < questions.length; at += CHUNK_QUESTIONS) yield questions.slice(at, at + CHUNK_QUESTIONS)
}

port.on('message', (task: DatasetTask) => {
  read(task).catch((error: unknown) => { say({ answer: { kind: 'failed', failure: failureOf(error) } }) })
})
