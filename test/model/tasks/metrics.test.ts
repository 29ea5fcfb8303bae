import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { exactMatch, tokenF1 } from '../../../src/model/tasks/metrics/answers.ts'
import { classified, macroF1 } from '../../../src/model/tasks/metrics/classification.ts'
import { porterStem } from '../../../src/model/tasks/metrics/porter-stemmer.ts'
import { rougeL, rougeN, rougeWords } from '../../../src/model/tasks/metrics/rouge.ts'

interface Golden {
  readonly pairs: ReadonlyArray<{
    readonly prediction: string
    readonly reference: string
    readonly rouge1: number
    readonly rouge2: number
    readonly rougeL: number
    readonly exact: number
    readonly f1: number
  }>
  readonly stems: Readonly<Record<string, string>>
  readonly classes: ReadonlyArray<{
    readonly predicted: readonly string[]
    readonly actual: readonly string[]
    readonly macroF1: number
    readonly accuracy: number
  }>
}

const golden = JSON.parse(
  gunzipSync(readFileSync(new URL('../../reference/metrics.json.gz', import.meta.url))).toString()
) as Golden

/** The largest difference between two figures of a pair. */
function farthest (ours: (pair: Golden['pairs'][number]) => number, theirs: (pair: Golden['pairs'][number]) => number): number {
  return Math.max(...golden.pairs.map((pair) => Math.abs(ours(pair) - theirs(pair))))
}

describe('metrics', () => {
  it('are compared on 500 pairs', () => {
    expect(golden.pairs).toHaveLength(500)
  })

  it('stem words as NLTK does', () => {
    const other = Object.entries(golden.stems).filter(([word, stem]) => porterStem(word) !== stem)
    expect(other.map(([word, stem]) => [word, stem, porterStem(word)])).toEqual([])
    expect(Object.keys(golden.stems).length).toBeGreaterThan(2000)
  })

  it.each([
    ['ROUGE-1', 'rouge1', (a: string, b: string) => rougeN(rougeWords(a), rougeWords(b), 1)],
    ['ROUGE-2', 'rouge2', (a: string, b: string) => rougeN(rougeWords(a), rougeWords(b), 2)],
    ['ROUGE-L', 'rougeL', (a: string, b: string) => rougeL(rougeWords(a), rougeWords(b))]
  ] as const)('%s is that of rouge-score', (_, name, ours) => {
    expect(farthest(({ prediction, reference }) => ours(prediction, reference), (pair) => pair[name])).toBeLessThan(1e-6)
  })

  it('exact match and token F1 are those of SQuAD', () => {
    expect(farthest(({ prediction, reference }) => exactMatch(prediction, reference), ({ exact }) => exact)).toBe(0)
    expect(farthest(({ prediction, reference }) => tokenF1(prediction, reference), ({ f1 }) => f1)).toBeLessThan(1e-6)
  })

  it('macro F1 is that of scikit-learn', () => {
    for (const { predicted, actual, macroF1: expected } of golden.classes)
      expect(macroF1(classified(predicted, actual), actual.map((_, i) => i))).toBeCloseTo(expected, 9)
  })
})
