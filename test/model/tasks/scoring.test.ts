import { describe, expect, it } from 'vitest'
import { bootstrap } from '../../../src/model/tasks/bootstrap.ts'
import { baselinesOf, scorePredictions, type Prediction } from '../../../src/model/tasks/scoring.ts'

function answered (pairs: ReadonlyArray<readonly [prediction: string, reference: string]>, choices?: number): Prediction[] {
  return pairs.map(([prediction, reference]) => ({ prediction, references: [reference], choices }))
}

describe('a bootstrap', () => {
  it('holds 95 % of a mean as the normal distribution does, and is the same for a seed', () => {
    const values = Array.from({ length: 400 }, (_, i) => i % 2)
    const mean = (records: ArrayLike<number>): number => Array.from(records, (i) => values[i]!).reduce((a, b) => a + b) / records.length
    const { value, low, high } = bootstrap(values.length, mean, 'a')
    expect(value).toBe(0.5)
    // 1.96 standard errors of 0.5 / 20.
    expect(Math.abs(low - (0.5 - 0.049))).toBeLessThan(0.01)
    expect(Math.abs(high - (0.5 + 0.049))).toBeLessThan(0.01)
    expect(bootstrap(values.length, mean, 'a')).toEqual({ value, low, high })
    expect(bootstrap(values.length, mean, 'b')).not.toEqual({ value, low, high })
  })
})

describe('scores', () => {
  it('take the best of several right answers', () => {
    const [{ value } = { value: NaN }] = scorePredictions(['exact-match'], [{ prediction: 'The cat.', references: ['a dog', 'cat'] }], '0')
    expect(value).toBe(1)
  })

  it('count a generated answer that is no label as wrong, and as no class of its own', () => {
    const given = answered([['a', 'a'], ['nonsense', 'a'], ['b', 'b']])
    expect(scorePredictions(['accuracy', 'macro-f1'], given, '0').map(({ value }) => value)).toEqual([2 / 3, (2 / 3 + 1) / 2])
  })

  it('weigh losses by their tokens', () => {
    const given = [{ references: [], loss: 2, tokens: 1 }, { references: [], loss: 2, tokens: 3 }]
    expect(scorePredictions(['loss', 'perplexity'], given, '0').map(({ value }) => value)).toEqual([1, Math.E])
  })

  it('are compared with the most frequent label, and with chance', () => {
    const given = answered([['a', 'b'], ['a', 'b'], ['a', 'a']], 2)
    expect(baselinesOf('classify', ['accuracy'], given)).toEqual([{ name: 'always "b"', metrics: [{ metric: 'accuracy', value: 2 / 3 }] }])
    expect(baselinesOf('multiple-choice', ['accuracy'], given)).toEqual([{ name: 'by chance', metrics: [{ metric: 'accuracy', value: 0.5 }] }])
    expect(baselinesOf('qa', ['token-f1'], answered([['a', 'b']]))).toEqual([])
  })

  it('of questions are compared with the answer that is right most often, where one is right twice', () => {
    const given = answered([['x', 'Ada'], ['x', 'Finn'], ['x', 'Ada']])
    expect(baselinesOf('qa', ['exact-match'], given)).toEqual([{ name: 'always "Ada"', metrics: [{ metric: 'exact-match', value: 2 / 3 }] }])
    const long = answered([['x', 'a'.repeat(80)], ['x', 'a'.repeat(80)]])
    expect(baselinesOf('extract', ['exact-match'], long)[0]!.name).toBe(`always "${'a'.repeat(40)}…"`)
  })

  it('of summaries are compared with as many of the first words as right summaries have on average, where the texts are known', () => {
    const given = answered([['x', 'A storm closed it.'], ['x', 'It rained.']]).map((each, i) => (
      { ...each, source: ['A storm  closed the bridge for days.', 'It rained\nand rained and rained.'][i]! }))
    expect(baselinesOf('summarize', ['rouge1'], given)).toEqual([
      { name: 'the first 3 words of each text', metrics: [{ metric: 'rouge1', value: expect.closeTo((6 / 7 + 4 / 5) / 2) as number }] }
    ])
    expect(baselinesOf('summarize', ['rouge1'], [given[0]!, answered([['x', 'y']])[0]!])).toEqual([])
  })
})
