import { Worker } from 'node:worker_threads'
import { TokenizerError } from '../errors.ts'
import { errorOf, type ThreadFailure } from './failure.ts'

/**
 * A thread may have this much memory for its objects: several times what the tokenizer of a vocabulary of 256,000 tokens takes. What
 * somebody else's tokenizer or template takes beyond it ends the thread and nothing else.
 */
const MAX_HEAP_MIB = 2048

/** What a thread says: an answer, or why there will be none. */
export type Said<Answer> = { readonly answer: Answer } | { readonly failure: ThreadFailure }

export interface ThreadListeners<Answer> {
  readonly onAnswer: (answer: Answer) => void
  /** Called at most once, when the thread failed or ended. */
  readonly onEnd: (error: Error) => void
}

export type ThreadName = 'tokenizer-worker' | 'dataset-worker' | 'grammar-worker'

/**
 * Starts one of the threads beside this file. What a founder wrote, such as patterns of a tokenizer and templates, runs in threads: work
 * that does not end holds up neither peers nor signals, and is ended with its thread.
 */
export function startThread<Answer> (
  name: ThreadName,
  workerData: unknown,
  { onAnswer, onEnd }: ThreadListeners<Answer>,
  maxHeapMib = MAX_HEAP_MIB
): Worker {
  // The worker entry beside this file, with the extension that this file has: sources run as .ts, the published build as .js.
  const entry = new URL(`./${name}${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url)
  const worker = new Worker(entry, { workerData, execArgv: [], resourceLimits: { maxOldGenerationSizeMb: maxHeapMib } })
  let ended = false
  const end = (error: Error): void => {
    if (ended) return
    ended = true
    void worker.terminate()
    onEnd(error)
  }
  worker.on('message', (said: Said<Answer>) => {
    if ('answer' in said) onAnswer(said.answer)
    else end(errorOf(said.failure))
  })
  worker.on('error', (error) => {
    end((error as NodeJS.ErrnoException).code === 'ERR_WORKER_OUT_OF_MEMORY'
      ? new TokenizerError(`the tokenizer took more than ${maxHeapMib} MiB of memory`, undefined, error)
      : error as Error)
  })
  worker.on('exit', () => { end(new TokenizerError('the thread of the tokenizer ended')) })
  return worker
}
