import type { GivenParameters, ResultOf } from '../../api/operations.ts'
import { MidspanError } from '../../errors.ts'
import { callDaemon } from '../daemon-client.ts'
import type { AnswersFile } from './answers-file.ts'
import { readPrompts, type Prompt } from './prompts-file.ts'

/** Texts that are generated at once: a client has four sessions with each server, one of which training may need. */
const TEXTS_AT_ONCE = 3

/** Seeds are numbers below this, as on the command line. */
const SEEDS = 2 ** 32

/** Failures that are a prompt's own: the others would have them alone too. */
const OWN_FAILURES = /^E_(USAGE|CONTEXT_LENGTH|TOKENIZER|PROMPT)$/

export interface PromptRun {
  readonly home: string
  readonly prompts: string
  readonly answers: AnswersFile
  /** What is asked of every prompt. With a seed, the prompt of line `n` has the seed plus `n - 1`. */
  readonly settings: Omit<GivenParameters<'generate'>, 'prompt' | 'messages' | 'ids'>
  readonly onProgress: (progress: PromptProgress) => void
  readonly onWaiting: (reason: string) => void
}

export interface PromptProgress {
  readonly answered: number
  /** Prompts that cannot be answered, among them. */
  readonly failed: number
  /** Tokens of this run. */
  readonly tokens: number
}

/**
 * Answers every prompt of a file that has no answer yet, several at once. A prompt that cannot be answered, such as one that is too long,
 * has an error for an answer; every other failure ends the run, which another one goes on with.
 */
export async function runPrompts (run: PromptRun, signal: AbortSignal): Promise<PromptProgress> {
  const { prompts, answers, onProgress } = run
  for await (const _ of readPrompts(prompts, signal)); // a mistake in the last line is told before hours of work
  const failed = new AbortController()
  const until = AbortSignal.any([signal, failed.signal])
  const progress = { answered: answers.size, failed: 0, tokens: 0 }
  const left = readPrompts(prompts, until)
  const work = async (): Promise<void> => {
    // An asynchronous generator hands each prompt to one of those that ask.
    for (let next = await left.next(); next.done !== true; next = await left.next()) {
      if (answers.has(next.value.line)) continue
      const answer = await answerOf(run, next.value, until)
      await answers.add(answer)
      progress.answered++
      if ('error' in answer) progress.failed++
      progress.tokens += Number(answer.tokens ?? 0)
      onProgress(progress)
    }
  }
  const works = Array.from({ length: TEXTS_AT_ONCE }, async () => {
    await work().catch((error: unknown) => {
      failed.abort(error)
      throw error
    })
  })
  try {
    await Promise.all(works)
  } finally {
    await Promise.allSettled(works)
    await left.return(undefined)
  }
  return progress
}

type Answered = { readonly line: number, readonly tokens?: number } & Readonly<Record<string, unknown>>

async function answerOf ({ home, settings, onWaiting }: PromptRun, { line, input }: Prompt, signal: AbortSignal): Promise<Answered> {
  const { seed } = settings
  const own = seed === undefined ? {} : { seed: (seed + line - 1) % SEEDS }
  try {
    let done: ResultOf<'generate'> | undefined
    for await (const event of callDaemon(home, 'generate', { ...settings, ...own, ...input, batch: true }, signal)) {
      if (event.type === 'waiting') onWaiting(event.reason)
      if (event.type === 'done') done = event
    }
    const { text, ids, reason, promptTokens, tokens } = done!
    return { line, text, ids, reason, promptTokens, tokens }
  } catch (error) {
    signal.throwIfAborted()
    if (!(error instanceof MidspanError) || !OWN_FAILURES.test(error.code)) throw error
    return { line, error: { code: error.code, message: error.message } }
  }
}
