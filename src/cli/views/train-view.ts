import type { EventOf, ProgressOf, ResultOf } from '../../api/operations.ts'
import { bytes, digits, lossText, plural, seconds } from '../format.ts'
import type { Terminal } from '../terminal.ts'
import { foundText } from './data-found.ts'
import { bar, ProgressLine } from './progress-line.ts'

export type TrainEvent = EventOf<'train'>
export type TrainRound = Extract<ProgressOf<'train'>, { readonly type: 'round' }>
type TrainEvaluation = Extract<ProgressOf<'train'>, { readonly type: 'evaluation' }>
type TrainStart = Extract<ProgressOf<'train'>, { readonly type: 'start' }>

const BAR_COLUMNS = 20

/** Shows training: a bar on a terminal, a line a round elsewhere, or the events themselves as JSON. */
export class TrainView {
  readonly #terminal: Terminal
  readonly #json: boolean
  readonly #progress: ProgressLine
  readonly #now: () => number
  #sent = 0
  #received = 0
  /** The held-out loss that the run began with. */
  #first: number | null | undefined
  /** Whether nobody had trained before this run. */
  #fromBase = false
  /** The time when the first round of this run ended, and the rounds done by then: the time left follows from the rounds since. */
  #pace: { readonly at: number, readonly done: number } | undefined

  constructor (terminal: Terminal, json: boolean, now: () => number = () => performance.now()) {
    this.#terminal = terminal
    this.#json = json
    this.#progress = new ProgressLine(terminal, now)
    this.#now = now
  }

  show (event: TrainEvent): void {
    if (this.#json) return this.#terminal.json(event)
    switch (event.type) {
      case 'start': return this.#start(event)
      case 'waiting': return this.#progress.wait(event.reason)
      case 'round': return this.#round(event)
      case 'evaluation': return this.#evaluation(event)
      case 'done': return this.#done(event)
    }
  }

  /** Leaves the terminal's last line clean, whatever ended the training. */
  end (): void {
    this.#progress.clear()
  }

  #start ({ round, done, rounds, records, ...found }: TrainStart): void {
    this.#fromBase = round === 0 && done === 0
    this.#terminal.note(`Training on ${plural(records, 'record')}: ${done} of ${plural(rounds, 'round')} done so far`)
    for (const line of foundText(found)) this.#terminal.note(line)
  }

  #round (event: TrainRound): void {
    this.#sent += event.sentBytes
    this.#received += event.receivedBytes
    this.#pace ??= { at: this.#now(), done: event.done }
    if (event.leftOut) {
      this.#progress.clear()
      this.#terminal.note(`Round ${event.round} went on without this client: it missed the deadline`)
    }
    const figures = [
      `loss ${lossText(event.loss)}`,
      `${digits(event.inputTokensPerSecond)} tokens/s (${digits(event.tokensPerSecond)} counted)`,
      `${plural(event.members, 'client')}`,
      `sent ${bytes(this.#sent)}`,
      `received ${bytes(this.#received)}`,
      ...(event.clippedFraction > 0 ? [`${digits(event.clippedFraction * 100)}% of rows clipped`] : [])
    ]
    if (this.#terminal.interactive) {
      const left = this.#timeLeft(event)
      this.#progress.draw(
        `${bar(event.done / event.rounds, BAR_COLUMNS)} ${event.done}/${event.rounds}  ${
          [...figures.slice(0, 2), ...left, ...figures.slice(2)].join('  ')
        }`
      )
    } else {
      this.#terminal.note(`Round ${event.done}/${event.rounds}: ${figures.join(', ')}`)
    }
  }

  #evaluation ({ done, loss, best, kept }: TrainEvaluation): void {
    this.#progress.clear()
    this.#first ??= loss
    const remark = !best ? '' : kept === undefined ? ', the smallest so far' : `, the smallest so far: the adapters are kept in ${kept}`
    this.#terminal.note(`Held-out loss after ${plural(done, 'round')}: ${lossText(loss)}${remark}`)
  }

  #timeLeft ({ done, rounds }: TrainRound): readonly string[] {
    if (this.#pace === undefined || done <= this.#pace.done) return []
    const secondsPerRound = (this.#now() - this.#pace.at) / 1000 / (done - this.#pace.done)
    return [`${seconds(secondsPerRound * (rounds - done))} left`]
  }

  #done (event: ResultOf<'train'>): void {
    this.#progress.clear()
    if (event.loss === null) return this.#terminal.line(`Done already: ${plural(event.rounds, 'round')}. Give a larger --rounds to go on`)
    this.#terminal.line(
      `${plural(event.rounds, 'round')} done in ${seconds(event.seconds)}: loss ${lossText(event.loss)}, sent ${
        bytes(event.sentBytes)
      }, received ${bytes(event.receivedBytes)}`
    )
    if (event.stoppedEarly === true) this.#terminal.line('Training ended early: the held-out loss has not fallen any more')
    this.#achieved(event)
  }

  /** Says what training has achieved against the model that the run began with, and what can be done next. */
  #achieved ({ best, rounds }: ResultOf<'train'>): void {
    if (best === undefined)
      return this.#terminal.note('Next: midspan evaluate --data HELDOUT says what training has brought on text that nobody learnt from')
    const { done, loss } = best
    if (done === 0) {
      this.#terminal.line(`Held-out loss ${lossText(loss)} before the first round, and never smaller: training has brought nothing`)
      return this.#terminal.note('Next: more text, or a federation with a smaller --learning-rate')
    }
    const from = typeof this.#first === 'number' ? ` from ${lossText(this.#first)}${this.#fromBase ? ' of the base model' : ''}` : ''
    this.#terminal.line(`Held-out loss${from}${from === '' ? '' : ' to'} ${lossText(loss)}, the smallest, after ${plural(done, 'round')}`)
    this.#terminal.note(done < rounds
      ? "Next: the kept adapters are those of the smallest loss; the federation's have gone on since. midspan export --out DIR writes the latter"
      : 'Next: midspan generate uses the adapters, and midspan export --out DIR writes them')
  }
}
