import type { RunEntry } from './run-log.ts'

export interface EvaluationSettings {
  /** Rounds from one evaluation to the next. */
  readonly every: number
  /** Evaluations in a row without a smaller loss after which training ends. */
  readonly patience: number
}

/** Says when a run is evaluated, which evaluation is the best one, and when going on is of no use. */
export class EvaluationSchedule {
  readonly #settings: EvaluationSettings
  #best: { readonly loss: number, readonly done: number } | undefined
  #withoutGain = 0
  /** Rounds that were done at the last evaluation. */
  #last: number | undefined

  /** Goes on from what was logged of the run before. */
  constructor (settings: EvaluationSettings, before: readonly RunEntry[] = []) {
    this.#settings = settings
    for (const entry of before) if (entry.type === 'evaluation') this.note(entry.done, entry.loss ?? NaN)
  }

  /** The evaluation with the smallest loss so far. */
  get best (): { readonly loss: number, readonly done: number } | undefined { return this.#best }

  /** Whether as many evaluations as the patience allows brought nothing. */
  get isExhausted (): boolean { return this.#withoutGain >= this.#settings.patience }

  /** Whether the run is to be evaluated when so many rounds are done. */
  isDue (done: number): boolean {
    return done % this.#settings.every === 0 && done !== this.#last
  }

  /** Whether the run's end was not evaluated. */
  lacks (done: number): boolean {
    return done !== this.#last
  }

  /** Notes an evaluation. Returns whether it is the best so far; of equal ones the first is. */
  note (done: number, loss: number): boolean {
    this.#last = done
    if (!(loss < (this.#best?.loss ?? Infinity))) {
      this.#withoutGain++
      return false
    }
    this.#best = { loss, done }
    this.#withoutGain = 0
    return true
  }
}
