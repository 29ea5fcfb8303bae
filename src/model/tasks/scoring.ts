import type { MetricName, TaskKind } from '../../api/task.ts'
import { bootstrap, type Interval, type Statistic } from './bootstrap.ts'
import { exactMatch, tokenF1 } from './metrics/answers.ts'
import { classified, macroF1 } from './metrics/classification.ts'
import { rougeL, rougeN, rougeWords } from './metrics/rouge.ts'

/** What a record was answered with. */
export interface Prediction {
  /** The right answers. */
  readonly references: readonly string[]
  readonly prediction?: string | undefined
  /** Of a record whose loss was measured: the sum over its counted tokens, in nats. */
  readonly loss?: number | undefined
  readonly tokens?: number | undefined
  /** Of a text that is summarised, the text itself. */
  readonly source?: string | undefined
  /** How many answers there were to choose from; undefined where the prediction was generated. */
  readonly choices?: number | undefined
}

/** What the predictions of a task came to, as plain JSON. */
export interface Judgement {
  readonly records: number
  readonly metrics: ReadonlyArray<{ readonly metric: MetricName } & { readonly [K in keyof Interval]: number | null }>
  readonly baselines: ReadonlyArray<{
    readonly name: string
    readonly metrics: ReadonlyArray<{ readonly metric: MetricName, readonly value: number | null }>
  }>
}

/** Judges predictions by the metrics of a task, with what they are to be compared with. Without predictions there is nothing to judge. */
export function judge (kind: TaskKind, metrics: readonly MetricName[], predictions: readonly Prediction[], seed: string): Judgement {
  if (predictions.length === 0) return { records: 0, metrics: [], baselines: [] }
  return {
    records: predictions.length,
    metrics: scorePredictions(metrics, predictions, seed).map(({ metric, value, low, high }) => ({
      metric, value: finite(value), low: finite(low), high: finite(high)
    })),
    baselines: baselinesOf(kind, metrics, predictions).map(({ name, metrics }) => ({
      name, metrics: metrics.map(({ metric, value }) => ({ metric, value: finite(value) }))
    }))
  }
}

function finite (value: number): number | null {
  return Number.isFinite(value) ? value : null
}

export interface Scored extends Interval {
  readonly metric: MetricName
}

/** Scores a prediction against one right answer, 0 to 1. */
type Scorer = (prediction: string, reference: string) => number

const SCORERS: Readonly<Record<Exclude<MetricName, 'macro-f1' | 'loss' | 'perplexity'>, Scorer>> = {
  accuracy: (prediction, reference) => prediction.trim() === reference.trim() ? 1 : 0,
  'exact-match': exactMatch,
  'token-f1': tokenF1,
  rouge1: (prediction, reference) => rougeN(rougeWords(prediction), rougeWords(reference), 1),
  rouge2: (prediction, reference) => rougeN(rougeWords(prediction), rougeWords(reference), 2),
  rougeL: (prediction, reference) => rougeL(rougeWords(prediction), rougeWords(reference))
}

/** The metrics that are smaller where a model is better. */
export const LOWER_IS_BETTER: ReadonlySet<MetricName> = new Set(['loss', 'perplexity'])

/** Computes metrics over all predictions, each with its 95 % interval. */
export function scorePredictions (metrics: readonly MetricName[], predictions: readonly Prediction[], seed: string): Scored[] {
  return metrics.map((metric) => ({ metric, ...bootstrap(predictions.length, statisticOf(metric, predictions), seed) }))
}

/** Returns a metric as a function of the records that it is computed over. Of several right answers the best counts. */
export function statisticOf (metric: MetricName, predictions: readonly Prediction[]): Statistic {
  if (metric === 'loss' || metric === 'perplexity') return lossOf(metric, predictions)
  if (metric === 'macro-f1') {
    const references = predictions.map(({ references: [label = ''] }) => label.trim())
    // What was generated may be no label at all.
    const known = predictions.every(({ choices }) => choices !== undefined) ? undefined : [...new Set(references)]
    const classes = classified(predictions.map(({ prediction = '' }) => prediction.trim()), references, known)
    return (records) => macroF1(classes, records)
  }
  const scorer = SCORERS[metric]
  const scores = Float64Array.from(predictions, ({ prediction = '', references }) =>
    Math.max(...references.map((reference) => scorer(prediction, reference))))
  return (records) => sum(scores, records) / records.length
}

/** What is as good as knowing nothing: the answer that is right most often, a choice by chance, or the beginning of a text. */
export interface Baseline {
  readonly name: string
  readonly metrics: ReadonlyArray<{ readonly metric: MetricName, readonly value: number }>
}

/** Characters of an answer that a baseline is named by. */
const NAMED_CHARACTERS = 40

/** Returns what predictions are to be compared with, where the task has such a thing. */
export function baselinesOf (kind: TaskKind, metrics: readonly MetricName[], predictions: readonly Prediction[]): Baseline[] {
  const all = Uint32Array.from(predictions, (_, i) => i)
  const scored = (name: string, answers: readonly string[]): Baseline => {
    const guesses = predictions.map((each, i) => ({ ...each, prediction: answers[i]! }))
    return { name, metrics: metrics.map((metric) => ({ metric, value: statisticOf(metric, guesses)(all) })) }
  }
  switch (kind) {
    case 'classify':
    case 'extract':
    case 'qa': {
      const { text, count } = mostFrequent(predictions.map(({ references }) => references[0]!))
      // Of answers that are all different, none is a better guess than another.
      if (kind !== 'classify' && count < 2) return []
      const named = text.length > NAMED_CHARACTERS ? `${text.slice(0, NAMED_CHARACTERS)}…` : text
      return [scored(`always ${JSON.stringify(named)}`, predictions.map(() => text))]
    }
    case 'multiple-choice': {
      if (predictions.some(({ choices }) => choices === undefined)) return []
      const chance = sum(Float64Array.from(predictions, ({ choices = 1 }) => 1 / choices), all) / predictions.length
      return [{ name: 'by chance', metrics: [{ metric: 'accuracy', value: chance }] }]
    }
    case 'summarize': {
      const sources = predictions.flatMap(({ source }) => source ?? [])
      // Of an evaluation that was resumed, the texts of before are not here.
      if (sources.length < predictions.length) return []
      const total = predictions.reduce((total, { references }) => total + wordsOf(references[0]!).length, 0)
      const words = Math.max(1, Math.round(total / predictions.length))
      return [scored(`the first ${words} words of each text`, sources.map((source) => wordsOf(source).slice(0, words).join(' ')))]
    }
    case 'chat': return []
  }
}

function wordsOf (text: string): string[] {
  return text.trim().split(/\s+/)
}

function lossOf (metric: 'loss' | 'perplexity', predictions: readonly Prediction[]): Statistic {
  const losses = Float64Array.from(predictions, ({ loss = NaN }) => loss)
  const tokens = Float64Array.from(predictions, ({ tokens = 0 }) => tokens)
  return (records) => {
    const mean = sum(losses, records) / sum(tokens, records)
    return metric === 'loss' ? mean : Math.exp(mean)
  }
}

function sum (values: Float64Array, records: ArrayLike<number>): number {
  let total = 0
  for (let i = 0; i < records.length; i++) total += values[records[i]!]!
  return total
}

/** Returns the text that is there most often, with how often that is; of several, the first in the order of their characters. */
function mostFrequent (texts: readonly string[]): { readonly text: string, readonly count: number } {
  const counts = new Map<string, number>()
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1)
  const [text, count] = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))[0]!
  return { text, count }
}
