import { readFile, stat } from 'node:fs/promises'
import { z } from 'zod'
import { metricNames, taskKinds, type MetricName, type TaskKind } from '../../api/task.ts'
import { bootstrap, type Interval } from './bootstrap.ts'
import { TaskError } from './resolved-task.ts'
import { LOWER_IS_BETTER, statisticOf, type Prediction } from './scoring.ts'

/** A file of predictions is read whole up to this size: it holds answers, and no more than a few thousand bytes a record. */
export const MAX_PREDICTIONS_BYTES = 512 * 1024 * 1024

/** A line of a file of predictions. */
export const predictionLine = z.object({
  record: z.int().min(1),
  file: z.string().optional(),
  line: z.int().min(1),
  kind: z.enum(taskKinds),
  references: z.array(z.string()).readonly(),
  prediction: z.string().optional(),
  logLikelihoods: z.record(z.string(), z.number().nullable()).optional(),
  loss: z.number().nullable().optional(),
  tokens: z.int().min(0).optional(),
  metrics: z.array(z.enum(metricNames)).min(1).readonly()
})

export type PredictionLine = z.output<typeof predictionLine>

/** A metric of two sets of predictions, and their difference with its 95 % interval. */
export interface Compared {
  readonly metric: MetricName
  readonly a: number
  readonly b: number
  /** b less a. */
  readonly difference: Interval
  /** Which is better by more than chance: its interval does not hold 0. */
  readonly better: 'a' | 'b' | null
}

export interface Comparison {
  readonly kind: TaskKind
  readonly records: number
  readonly metrics: readonly Compared[]
}

/** Reads a file of predictions. Throws TaskError with the line that is at fault. */
export async function readPredictions (path: string): Promise<readonly PredictionLine[]> {
  const { size } = await stat(path)
  if (size > MAX_PREDICTIONS_BYTES)
    throw new TaskError(`${path} has ${size} bytes, more than the ${MAX_PREDICTIONS_BYTES} that predictions may have`)
  const lines = (await readFile(path, 'utf8')).split('\n').map((text, i) => ({ text, line: i + 1 })).filter(({ text }) => text.trim() !== '')
  if (lines.length === 0) throw new TaskError(`${path} holds no predictions`, 'write them with: midspan evaluate --task … --predictions FILE')
  return lines.map(({ text, line }) => parsePrediction(text, `${path} line ${line}`))
}

/** Reads the whole lines at the beginning of a file of predictions: of a process that was killed, the last may be torn. */
export function wholePredictions (text: string): readonly PredictionLine[] {
  const lines: PredictionLine[] = []
  for (const line of text.split('\n').slice(0, -1)) {
    try {
      lines.push(parsePrediction(line, ''))
    } catch {
      break
    }
  }
  return lines
}

/**
 * Looks at a file before predictions are written over it. Throws TaskError where it holds something else, which stays as it is. What is no
 * file, such as a pipe, may be written to.
 */
export async function checkOverwritten (path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined || !found.isFile() || found.size === 0) return
  const text = found.size > MAX_PREDICTIONS_BYTES ? 'x\n' : await readFile(path, 'utf8')
  // A process that was killed may have left nothing but a torn line.
  const isTorn = !text.includes('\n') && text.startsWith('{"')
  if (!isTorn && wholePredictions(text).length === 0)
    throw new TaskError(`${path} holds something other than predictions`, 'name another file; this one stays as it is')
}

/** Reads one line of a file of predictions. Throws TaskError that begins with `place`. */
export function parsePrediction (text: string, place: string): PredictionLine {
  const fail = (reason: string): never => {
    throw new TaskError(`${place} is no prediction: ${reason}`, 'give files that midspan evaluate --predictions has written')
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return fail('it is not valid JSON')
  }
  const parsed = predictionLine.safeParse(value)
  const [issue] = parsed.error?.issues ?? []
  return parsed.success ? parsed.data : fail(`${issue?.path.join('.')}: ${issue?.message}`)
}

/**
 * Compares two sets of predictions of the same records, record by record: both lose and win the same records in each resample. Throws
 * TaskError where they are not of the same records.
 */
export function comparePredictions (a: readonly PredictionLine[], b: readonly PredictionLine[], seed: string): Comparison {
  const byKey = new Map(b.map((line) => [keyOf(line), line]))
  const pairs = a.map((line) => {
    const other = byKey.get(keyOf(line))
    if (other === undefined) throw new TaskError(`record ${line.record} is in the first file and not in the second`, 'evaluate both on the same data')
    if (other.kind !== line.kind || !isSame(other.references, line.references))
      throw new TaskError(`record ${line.record} is another one in the second file`, 'evaluate both with the same task on the same data')
    return [line, other] as const
  })
  if (byKey.size !== pairs.length)
    throw new TaskError(`the first file has ${pairs.length} records and the second ${byKey.size}`, 'evaluate both on the same data')
  const [first] = a
  const { kind, metrics } = first!
  return {
    kind,
    records: pairs.length,
    metrics: metrics.map((metric) => {
      const [ofA, ofB] = [0, 1].map((side) => statisticOf(metric, pairs.map((pair) => asPrediction(pair[side]!))))
      const difference = bootstrap(pairs.length, (records) => ofB!(records) - ofA!(records), seed)
      const all = Uint32Array.from(pairs, (_, i) => i)
      return { metric, a: ofA!(all), b: ofB!(all), difference, better: betterOf(metric, difference) }
    })
  }
}

function betterOf (metric: MetricName, { low, high }: Interval): 'a' | 'b' | null {
  if (low <= 0 && high >= 0) return null
  return low > 0 === LOWER_IS_BETTER.has(metric) ? 'a' : 'b'
}

function keyOf ({ file, record }: PredictionLine): string {
  return `${record} ${file ?? ''}`
}

function isSame (a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((text, i) => text === b[i])
}

/** Returns a line of a file of predictions as it is scored. */
export function asPrediction ({ references, prediction, loss, tokens, logLikelihoods }: PredictionLine): Prediction {
  return {
    references,
    prediction,
    loss: loss ?? NaN,
    tokens,
    choices: logLikelihoods === undefined ? undefined : Object.keys(logLikelihoods).length
  }
}
