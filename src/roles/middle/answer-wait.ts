import { ChannelTimeoutError } from '../../protocols/wire/errors.ts'

export interface AnswerWaitOptions {
  /** How long no server may answer. */
  readonly timeoutMs: number
  readonly onWaiting: (reason: string) => void
}

/** A user is told what is waited for when nothing has come for so long. */
const WAITING_AFTER_MS = 4_000

/** Bounds how long a sequence goes without any server's answer, and tells the user what it waits for. The caller ends it. */
export class AnswerWait {
  /** Aborts with the caller's signal, and when no answer has come for too long. */
  readonly signal: AbortSignal
  /** Says what is waited for, where nothing better is known. */
  late = 'the servers have not answered yet'
  readonly #options: AnswerWaitOptions
  readonly #timedOut = new AbortController()
  readonly #timers: NodeJS.Timeout[]
  #lastError: unknown
  #told: string | undefined

  constructor (options: AnswerWaitOptions, signal: AbortSignal | undefined) {
    const { timeoutMs } = options
    this.#options = options
    this.signal = signal === undefined ? this.#timedOut.signal : AbortSignal.any([signal, this.#timedOut.signal])
    this.#timers = [
      setTimeout(() => { this.tell(this.late) }, WAITING_AFTER_MS),
      ...timeoutMs === Infinity ? [] : [setTimeout(() => { this.#giveUp(timeoutMs) }, timeoutMs)]
    ]
  }

  /** Notes that a server answered: the time begins anew. */
  answered (): void {
    for (const timer of this.#timers) timer.refresh()
    this.#told = undefined
    this.#lastError = undefined
  }

  /** Notes a failure that is being waited out. It is thrown when the time is up. */
  failed (error: unknown): void {
    this.#lastError = error
  }

  /** Tells the user what is waited for, once until the next answer. */
  tell (reason: string): void {
    if (this.#told === reason) return
    this.#told = reason
    this.#options.onWaiting(reason)
  }

  end (): void {
    for (const timer of this.#timers) clearTimeout(timer)
  }

  #giveUp (timeoutMs: number): void {
    this.#timedOut.abort(this.#lastError ?? new ChannelTimeoutError('the servers did not answer', timeoutMs))
  }
}
