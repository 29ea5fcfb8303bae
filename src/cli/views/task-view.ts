import type { EventOf, ResultOf } from '../../api/operations.ts'
import type { Comparison } from '../../model/tasks/comparison.ts'
import { bytes, plural, seconds, table } from '../format.ts'
import type { Terminal } from '../terminal.ts'
import { foundText } from './data-found.ts'
import { bar, ProgressLine } from './progress-line.ts'

type TaskEvent = EventOf<'evaluateTask'>
type TaskResult = ResultOf<'evaluateTask'>

/** The answers of an earlier evaluation, by the name of their file, beside those of now. */
export interface BaseComparison {
  readonly path: string
  readonly comparison: Comparison
}

const BAR_COLUMNS = 20

/** Labels that no record has are named up to so many. */
const MAX_SHOWN_LABELS = 5

/** Shows the evaluation of a task: how far it is, then what it came to. */
export class TaskView {
  readonly #terminal: Terminal
  readonly #json: boolean
  readonly #progress: ProgressLine
  readonly #now: () => number
  #records = 0
  #done = 0
  #startedAtMs = 0

  constructor (terminal: Terminal, json: boolean, now: () => number = () => performance.now()) {
    this.#terminal = terminal
    this.#json = json
    this.#progress = new ProgressLine(terminal, now)
    this.#now = now
  }

  show (event: TaskEvent): void {
    switch (event.type) {
      case 'start': return this.#start(event)
      case 'waiting': return this.#progress.wait(event.reason)
      case 'progress': return this.#draw(`${plural(event.tokens, 'token')} generated`)
      case 'prediction':
        this.#done++
        return this.#draw(this.#timeLeft())
      case 'result': return this.showResult(event)
    }
  }

  /** Shows what the evaluation came to, beside what the base model came to where that is known. */
  showResult (event: TaskResult, base?: BaseComparison): void {
    this.#progress.clear()
    const { type: _type, ...result } = event
    if (this.#json) return this.#terminal.json({ ...result, ...(base === undefined ? {} : { base: base.comparison }) })
    for (const line of resultText(event, base)) this.#terminal.line(line)
  }

  /** Leaves the terminal's last line clean, whatever ended the evaluation. */
  end (): void {
    this.#progress.clear()
  }

  #start ({ records, labels, unseenLabels = [], ...found }: Extract<TaskEvent, { type: 'start' }>): void {
    this.#records = records
    this.#startedAtMs = this.#now()
    this.#terminal.note(`Evaluating ${plural(records, 'record')}${labels === undefined ? '' : ` of ${plural(labels.length, 'label')}`}`)
    for (const line of foundText(found)) this.#terminal.note(line)
    if (unseenLabels.length === 0) return
    const named = unseenLabels.slice(0, MAX_SHOWN_LABELS).map((label) => JSON.stringify(label)).join(', ')
    const rest = unseenLabels.length - MAX_SHOWN_LABELS
    this.#terminal.note(`No record has the label ${named}${rest > 0 ? ` or ${rest} more` : ''}`)
  }

  #draw (text: string): void {
    this.#progress.draw(`${bar(this.#done / this.#records, BAR_COLUMNS)} ${this.#done}/${this.#records}  ${text}`)
  }

  #timeLeft (): string {
    const secondsPerRecord = (this.#now() - this.#startedAtMs) / 1000 / this.#done
    return `${seconds(secondsPerRecord * (this.#records - this.#done))} left`
  }
}

function resultText (
  { metrics, baselines, records, seconds: taken, sentBytes, receivedBytes }: TaskResult,
  base: BaseComparison | undefined
): readonly string[] {
  const rows = metrics.map(({ metric, value, low, high }) => [metric, figure(value), `95 % interval ${figure(low)} to ${figure(high)}`])
  return [
    ...table(rows),
    ...baselines.map(({ name, metrics }) => `${name}: ${metrics.map(({ metric, value }) => `${metric} ${figure(value)}`).join(', ')}`),
    ...base === undefined ? [] : baseText(base),
    `${plural(records, 'record')} in ${seconds(taken)}, sent ${bytes(sentBytes)}, received ${bytes(receivedBytes)}`
  ]
}

function baseText ({ path, comparison: { metrics } }: BaseComparison): readonly string[] {
  return metrics.map(({ metric, a, difference: { value, low, high }, better }) =>
    `base model (${path}): ${metric} ${figure(a)}; the difference is ${signed(value)}, 95 % interval ${signed(low)} to ${signed(high)}: ${
      better === null ? 'no difference beyond chance' : better === 'b' ? 'training has brought something' : 'training has done harm'
    }`)
}

/** Returns what a comparison came to, as lines for people. */
export function comparisonText ({ records, metrics }: Comparison, a: string, b: string): readonly string[] {
  const rows = metrics.map(({ metric, a, b, difference: { value, low, high }, better }) => [
    metric, figure(a), figure(b), `difference ${signed(value)}`, `95 % interval ${signed(low)} to ${signed(high)}`,
    better === null ? 'no difference beyond chance' : `${better === 'a' ? 'the first' : 'the second'} is better`
  ])
  return [`${plural(records, 'record')} answered in ${a} and in ${b}`, ...table(rows)]
}

function figure (value: number | null): string {
  return value === null ? 'not a number' : value.toFixed(4)
}

function signed (value: number): string {
  return `${value < 0 ? '' : '+'}${value.toFixed(4)}`
}
