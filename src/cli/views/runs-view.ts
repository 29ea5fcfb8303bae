import type { LoggedRun } from '../../roles/client/training/run-log.ts'
import { bytes, digits, lossText, table } from '../format.ts'

/** The characters of a sparkline, from the smallest value to the greatest. */
const LEVELS = '▁▂▃▄▅▆▇█'

/** Columns of a sparkline: a table of runs then fits into 80 columns. */
const SPARK_COLUMNS = 20

/** What is told of a run. */
export interface RunOverview {
  readonly id: string
  readonly directory: string
  readonly started: string
  readonly data: readonly string[]
  readonly rounds: number
  readonly losses: ReadonlyArray<number | null>
  /** The smallest loss on data that was held out, and the rounds that were done then. */
  readonly best: { readonly done: number, readonly loss: number } | null
  readonly tokens: number
  readonly sentBytes: number
  readonly receivedBytes: number
  readonly meanTokensPerSecond: number | null
}

/** Sums up the log of a run. */
export function runOverview ({ id, directory, started, data, entries }: LoggedRun): RunOverview {
  const rounds = entries.filter((entry) => entry.type === 'round')
  const evaluations = entries.flatMap((entry) => entry.type === 'evaluation' && entry.loss !== null ? [{ done: entry.done, loss: entry.loss }] : [])
  const total = (of: (round: typeof rounds[number]) => number): number => rounds.reduce((sum, round) => sum + of(round), 0)
  return {
    id,
    directory,
    started,
    data,
    rounds: rounds.at(-1)?.done ?? 0,
    losses: rounds.map(({ loss }) => loss),
    best: evaluations.reduce<RunOverview['best']>((best, each) => best === null || each.loss < best.loss ? each : best, null),
    tokens: total(({ tokens }) => tokens),
    sentBytes: total(({ sentBytes }) => sentBytes),
    receivedBytes: total(({ receivedBytes }) => receivedBytes),
    meanTokensPerSecond: rounds.length === 0 ? null : total(({ inputTokensPerSecond }) => inputTokensPerSecond) / rounds.length
  }
}

/** Returns runs as lines for people, the newest last. */
export function runsText (runs: readonly RunOverview[]): readonly string[] {
  if (runs.length === 0) return ['No run yet: begin one with midspan train']
  const rows = runs.map(({ id, rounds, losses, best, sentBytes, receivedBytes, meanTokensPerSecond }) => [
    id,
    String(rounds),
    sparkline(losses, SPARK_COLUMNS),
    losses.length === 0 ? '' : `${lossText(losses[0]!)} to ${lossText(losses.at(-1)!)}`,
    best === null ? '' : `${lossText(best.loss)} after ${best.done}`,
    meanTokensPerSecond === null ? '' : digits(meanTokensPerSecond),
    bytes(sentBytes + receivedBytes)
  ])
  return table([['run', 'rounds', 'loss', '', 'held out', 'tokens/s', 'traffic'], ...rows])
}

/** Draws values as a line of blocks, at most so many columns wide: each column is the mean of the values that fall on it. */
export function sparkline (values: ReadonlyArray<number | null>, columns: number): string {
  const width = Math.min(columns, values.length)
  const at = (column: number): number => Math.floor(column * values.length / width)
  const means = Array.from({ length: width }, (_, column) => mean(values.slice(at(column), at(column + 1))))
  const known = means.filter((value) => value !== null)
  const [least, greatest] = [Math.min(...known), Math.max(...known)]
  const level = (value: number): number => greatest === least ? 0 : Math.round((value - least) / (greatest - least) * (LEVELS.length - 1))
  return means.map((value) => value === null ? ' ' : LEVELS[level(value)]!).join('')
}

function mean (values: ReadonlyArray<number | null>): number | null {
  const known = values.filter((value) => value !== null)
  return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length
}
