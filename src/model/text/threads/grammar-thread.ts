import type { TokenConstraint } from '../../generation/token-constraint.ts'
import { OutputFormatError } from '../structured-output/errors.ts'
import type { OutputFormat } from '../structured-output/output-format.ts'
import { errorOf, type ThreadFailure } from './failure.ts'
import { QuestionThread, ThreadEndedError } from './question-thread.ts'

export interface GrammarThreadData {
  /** The Hugging Face directory whose tokenizer it is. */
  readonly dir: string
  /** The number of logits. */
  readonly size: number
}

/** What the thread is asked. Texts are named by numbers. */
export type GrammarQuestion =
  | { readonly kind: 'open', readonly text: number, readonly format: OutputFormat }
  | { readonly kind: 'accept', readonly text: number, readonly id: number }
  | { readonly kind: 'close', readonly text: number }

/** Which tokens may come next; undefined where the text has ended. */
export type GrammarAnswer =
  | { readonly mask: Int32Array | undefined }
  /** The thread may end with it. */
  | { readonly failure: ThreadFailure, readonly isLast: boolean }

/** On a busy machine a small schema was seen to take 0.8 seconds, and the vocabulary of 49,152 tokens before it five. */
const TIMEOUT_MS = 60_000

/** A thread without texts is kept this long: to start one takes a few seconds, and it holds the vocabulary. */
const IDLE_MS = 300_000

/** A text is begun again this often where other texts bring their threads down. */
const MAX_TRIES = 4

/**
 * Keeps texts to forms in a thread of its own, which the first text starts. A form at which the thread fails takes along no other text:
 * the others go on in another thread.
 */
export class GrammarThread {
  readonly #data: GrammarThreadData
  #running: Thread | undefined
  #texts = 0
  #open = 0
  #closed = false
  #idle: NodeJS.Timeout | undefined

  /** The caller closes the thread. */
  constructor (data: GrammarThreadData) {
    this.#data = data
  }

  /** Begins a text that keeps to a form. The caller closes what is returned. Throws OutputFormatError and TokenizerError. */
  async open (format: OutputFormat): Promise<TokenConstraint> {
    clearTimeout(this.#idle)
    this.#open++
    const text = new ConstrainedText(format, this.#texts++, () => this.#started(), () => { this.#ended() })
    try {
      await text.begin()
      return text
    } catch (error) {
      text.close()
      throw error
    }
  }

  /** Ends the thread. Called again, it does nothing. */
  async close (): Promise<void> {
    this.#closed = true
    clearTimeout(this.#idle)
    await this.#running?.end()
  }

  #started (): Thread {
    if (this.#closed) throw new OutputFormatError('the client is stopping')
    if (this.#running?.isEnded !== false) this.#running = start(this.#data)
    return this.#running
  }

  #ended (): void {
    if (--this.#open > 0) return
    this.#idle = setTimeout(() => { void this.#running?.end() }, IDLE_MS).unref()
  }
}

/** One text, which is begun again in another thread where its own ended. */
class ConstrainedText implements TokenConstraint {
  readonly #format: OutputFormat
  readonly #number: number
  readonly #threadOf: () => Thread
  readonly #onClose: () => void
  readonly #ids: number[] = []
  #thread: Thread | undefined
  #next: Promise<Int32Array | undefined> = Promise.resolve(undefined)
  #isClosed = false

  constructor (format: OutputFormat, number: number, threadOf: () => Thread, onClose: () => void) {
    this.#format = format
    this.#number = number
    this.#threadOf = threadOf
    this.#onClose = onClose
  }

  async begin (): Promise<void> {
    this.#next = this.#again()
    await this.#next
  }

  async allowed (): Promise<Int32Array> {
    const mask = await this.#next
    if (mask === undefined) throw new Error('the text has ended')
    if (mask.every((word) => word === 0))
      throw new OutputFormatError('no token of the vocabulary can go on with the text so that it keeps to its form', 'choose another form')
    return mask
  }

  accept (id: number): void {
    const before = this.#next
    this.#ids.push(id)
    this.#next = before.then(async () => await this.#accepted(id))
    this.#next.catch(() => {}) // thrown at whoever asks what is allowed
  }

  close (): void {
    if (this.#isClosed) return
    this.#isClosed = true
    if (this.#thread?.isEnded === false) this.#thread.ask({ kind: 'close', text: this.#number }).catch(() => {})
    this.#onClose()
  }

  async #accepted (id: number): Promise<Int32Array | undefined> {
    try {
      return await ask(this.#thread!, { kind: 'accept', text: this.#number, id })
    } catch (error) {
      if (error instanceof ThreadEndedError && !this.#isClosed) return await this.#again()
      throw error
    }
  }

  /** Begins the text in a thread that runs, with the tokens that it has. */
  async #again (): Promise<Int32Array | undefined> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#beginIn(this.#threadOf())
      } catch (error) {
        if (!(error instanceof ThreadEndedError) || this.#isClosed || tries === MAX_TRIES) throw error
      }
    }
  }

  async #beginIn (thread: Thread): Promise<Int32Array | undefined> {
    this.#thread = thread
    let mask = await ask(thread, { kind: 'open', text: this.#number, format: this.#format })
    for (const id of this.#ids) mask = await ask(thread, { kind: 'accept', text: this.#number, id })
    return mask
  }
}

type Thread = QuestionThread<GrammarAnswer, GrammarQuestion, GrammarAnswer>

function start (data: GrammarThreadData): Thread {
  return new QuestionThread('grammar-worker', data, {
    loadMs: TIMEOUT_MS,
    questionMs: TIMEOUT_MS,
    tooLong: () => new OutputFormatError(`the form of the text took longer than ${TIMEOUT_MS / 1000} seconds`, 'simplify it')
  })
}

/** Throws ThreadEndedError where the thread ended for another reason than this question. */
async function ask (thread: Thread, question: GrammarQuestion): Promise<Int32Array | undefined> {
  const answer = await thread.ask(question)
  if (!('failure' in answer)) return answer.mask
  if (answer.isLast) void thread.end()
  throw errorOf(answer.failure)
}
