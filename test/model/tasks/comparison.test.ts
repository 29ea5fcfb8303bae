import { truncate } from 'node:fs/promises'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MidspanError } from '../../../src/errors.ts'
import { comparePredictions, MAX_PREDICTIONS_BYTES, parsePrediction, readPredictions, wholePredictions, type PredictionLine } from '../../../src/model/tasks/comparison.ts'
import { temporaryFile } from '../../helpers/temporary-file.ts'

/** Predictions of as many records, of which those are right whose number the function accepts. */
function predictions (count: number, isRight: (record: number) => boolean): PredictionLine[] {
  return Array.from({ length: count }, (_, i) => ({
    record: i + 1, line: i + 1, kind: 'classify', metrics: ['accuracy'], references: ['a'], prediction: isRight(i + 1) ? 'a' : 'b'
  }))
}

describe('a comparison', () => {
  it('finds a difference where one is better on more records than chance would have it', () => {
    const { metrics: [accuracy] } = comparePredictions(predictions(200, (i) => i % 2 === 0), predictions(200, (i) => i % 5 !== 0), '0')
    expect(accuracy).toMatchObject({ metric: 'accuracy', a: 0.5, b: 0.8, better: 'b' })
    expect(accuracy!.difference.value).toBeCloseTo(0.3, 12)
  })

  it('pairs the records: the same difference on each of them has no spread', () => {
    const { metrics: [same] } = comparePredictions(predictions(20, (i) => i > 10), predictions(20, (i) => i > 10), '0')
    expect(same).toMatchObject({ difference: { value: 0, low: 0, high: 0 }, better: null })
  })

  it('takes a smaller loss for the better one', () => {
    const losses = (loss: number): PredictionLine[] => predictions(20, () => true)
      .map(({ prediction: _, ...line }) => ({ ...line, kind: 'chat', metrics: ['loss'], references: [], loss, tokens: 2 }))
    expect(comparePredictions(losses(4), losses(2), '0').metrics[0]).toMatchObject({ a: 2, b: 1, better: 'b' })
  })

  it.each([
    ['fewer records', predictions(2, () => true), 'record 3 is in the first file and not in the second'],
    ['more records', predictions(4, () => true), 'the first file has 3 records and the second 4'],
    ['other records', predictions(3, () => true).map((line) => ({ ...line, references: ['c'] })), 'record 1 is another one']
  ])('refuses a second file with %s', (_, second, message) => {
    expect(() => comparePredictions(predictions(3, () => true), second, '0')).toThrow(message)
  })
})

describe('a file of predictions', () => {
  it('is read line by line, and the line at fault is named', async () => {
    const [line] = predictions(1, () => true)
    const good = JSON.stringify(line)
    expect(await readPredictions(await temporaryFile('good.jsonl', `${good}\n`))).toEqual([line])
    await expect(readPredictions(await temporaryFile('bad.jsonl', `${good}\nx\n`))).rejects.toThrow('line 2 is no prediction: it is not valid JSON')
    await expect(readPredictions(await temporaryFile('empty.jsonl', '\n'))).rejects.toThrow('holds no predictions')
  })

  it('is whole up to a line that is torn', () => {
    const lines = predictions(3, () => true)
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('')
    expect(wholePredictions(text.slice(0, -9))).toEqual(lines.slice(0, 2))
    expect(wholePredictions('')).toEqual([])
  })

  it('has a bound', async () => {
    const path = await temporaryFile('large.jsonl', '')
    await truncate(path, MAX_PREDICTIONS_BYTES + 1)
    await expect(readPredictions(path)).rejects.toThrow(`more than the ${MAX_PREDICTIONS_BYTES}`)
  })

  it('of any line is read or refused', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      try {
        parsePrediction(text, 'x line 1')
      } catch (error) {
        expect(error).toBeInstanceOf(MidspanError)
      }
    }))
  })
})
