import type { Worker } from 'node:worker_threads'
import { startThread, type ThreadName } from './thread.ts'

/** Thrown at questions that a thread did not come to before it ended. Its cause is why the thread ended, where it ended by itself. */
export class ThreadEndedError extends Error {
  constructor (cause?: Error) {
    super('the thread ended before it came to the question', { cause })
  }
}

export interface QuestionThreadOptions {
  /** Milliseconds that the thread may take to load. */
  readonly loadMs: number
  /** Milliseconds that one question may take; undefined: the thread has limits of its own. */
  readonly questionMs?: number
  /** Returns the error of a thread that took too long, to load or at a question. */
  readonly tooLong: (isLoaded: boolean) => Error
  readonly maxHeapMib?: number | undefined
}

/**
 * A thread that is asked questions, and answers them one at a time in the order they come. A question at which the thread ends gets the
 * error; those behind it get ThreadEndedError, and may be asked again in another thread. Where the thread does not load, all get the error.
 */
export class QuestionThread<Loaded, Question, Answer> {
  /** What the thread says once it has loaded. Rejects where it does not load. */
  readonly loaded: Promise<Loaded>
  readonly #rejectLoaded: (error: Error) => void
  readonly #options: QuestionThreadOptions
  readonly #worker: Worker
  readonly #waiting: Array<PromiseWithResolvers<Answer>> = []
  #isLoaded = false
  #isEnded = false
  #timer: NodeJS.Timeout | undefined

  /** Starts the thread. The caller ends it. */
  constructor (name: ThreadName, data: unknown, options: QuestionThreadOptions) {
    const { promise, resolve, reject } = Promise.withResolvers<Loaded>()
    promise.catch(() => {}) // thrown at whoever asks
    this.loaded = promise
    this.#rejectLoaded = reject
    this.#options = options
    this.#worker = startThread<Loaded | Answer>(name, data, {
      onAnswer: (said) => {
        if (this.#isLoaded) {
          this.#waiting.shift()?.resolve(said as Answer)
        } else {
          this.#isLoaded = true
          resolve(said as Loaded)
        }
        this.#watch()
      },
      onEnd: (error) => { this.#end(error) }
    }, options.maxHeapMib)
    this.#watch()
  }

  get isEnded (): boolean { return this.#isEnded }

  /** Throws ThreadEndedError where the thread ended for another reason than this question. */
  async ask (question: Question): Promise<Answer> {
    if (this.#isEnded) throw new ThreadEndedError()
    const waiting = Promise.withResolvers<Answer>()
    this.#waiting.push(waiting)
    if (this.#isLoaded && this.#waiting.length === 1) this.#watch()
    this.#worker.postMessage(question)
    return await waiting.promise
  }

  /** Ends the thread, whatever it is doing. Called again, it does nothing. */
  async end (): Promise<void> {
    this.#end(new ThreadEndedError())
    await this.#worker.terminate()
  }

  /** Gives what the thread does now its time from now on. */
  #watch (): void {
    clearTimeout(this.#timer)
    const { loadMs, questionMs, tooLong } = this.#options
    if (this.#isEnded || (this.#isLoaded && this.#waiting.length === 0)) return
    const limitMs = this.#isLoaded ? questionMs : loadMs
    if (limitMs === undefined) return
    this.#timer = setTimeout(() => {
      this.#end(tooLong(this.#isLoaded))
      void this.#worker.terminate()
    }, limitMs).unref()
  }

  #end (error: Error): void {
    if (this.#isEnded) return
    this.#isEnded = true
    clearTimeout(this.#timer)
    this.#rejectLoaded(error)
    const ended = error instanceof ThreadEndedError ? error : new ThreadEndedError(error)
    for (const [i, { reject }] of this.#waiting.splice(0).entries()) reject(i === 0 || !this.#isLoaded ? error : ended)
  }
}
