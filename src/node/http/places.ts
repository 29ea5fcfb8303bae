import { MidspanError } from '../../errors.ts'
import { RequestError } from './errors.ts'

/** Texts that wait for a place, over all requests: more than a person or a program of theirs has under way. */
export const MAX_WAITING_TEXTS = 256

/** Gives a place back. Called again, it does nothing. */
export type GiveBack = () => void

interface Waiting {
  readonly enter: () => void
}

/** Bounds how many texts are generated at once. The others wait in the order in which they came. */
export class Places {
  readonly #waiting = new Set<Waiting>()
  readonly #maxWaiting: number
  #free: number

  constructor (active: number, maxWaiting = MAX_WAITING_TEXTS) {
    this.#free = active
    this.#maxWaiting = maxWaiting
  }

  /**
   * Takes `count` places. Returns a promise for each, which resolves when the place is there, or rejects when the signal aborts before.
   * Throws RequestError at once where more would wait than may.
   */
  take (count: number, signal: AbortSignal): ReadonlyArray<Promise<GiveBack>> {
    const waiting = this.#waiting.size + Math.max(0, count - this.#free)
    if (waiting > this.#maxWaiting)
      throw new RequestError(429, 'queue_full', `${this.#waiting.size} texts wait already, and ${this.#maxWaiting} may; try again later`, {
        headers: { 'retry-after': '1' }
      })
    return Array.from({ length: count }, () => this.#takeOne(signal))
  }

  #takeOne (signal: AbortSignal): Promise<GiveBack> {
    if (signal.aborted) return Promise.reject(reasonOf(signal))
    if (this.#free > 0) {
      this.#free--
      return Promise.resolve(this.#givesBack())
    }
    const { promise, resolve, reject } = Promise.withResolvers<GiveBack>()
    const leave = (): void => {
      this.#waiting.delete(waiting)
      reject(reasonOf(signal))
    }
    const waiting: Waiting = {
      enter: () => {
        signal.removeEventListener('abort', leave)
        resolve(this.#givesBack())
      }
    }
    this.#waiting.add(waiting)
    signal.addEventListener('abort', leave, { once: true })
    return promise
  }

  #givesBack (): GiveBack {
    let given = false
    return () => {
      if (given) return
      given = true
      const [next] = this.#waiting
      if (next === undefined) {
        this.#free++
        return
      }
      this.#waiting.delete(next)
      next.enter()
    }
  }
}

function reasonOf (signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new MidspanError('E_CALLER_GONE', 'the caller hung up')
}
