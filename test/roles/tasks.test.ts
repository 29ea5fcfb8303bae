import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { EventOf, ResultOf } from '../../src/api/operations.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation, type TestClient, type TestFederation } from './helpers.ts'

type TaskEvent = EventOf<'evaluateTask'>
type Predicted = Extract<TaskEvent, { type: 'prediction' }>

let root: string
let federation: TestFederation
let client: TestClient

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-tasks-'))
  await writeTinyModel(join(root, 'model'))
  federation = await startFederation({
    model: join(root, 'model'), clients: [{}], charter: { loraTargets: ['q', 'v'], loraR: 2, maxTokensPerClient: 64 }
  })
  client = federation.clients[0]!
})

afterAll(async () => {
  await federation.stop()
  await rm(root, { recursive: true, force: true })
})

async function written (name: string, records: readonly object[]): Promise<string> {
  const path = join(root, name)
  await writeFile(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  return path
}

async function evaluated (parameters: object): Promise<{ predictions: Predicted[], events: TaskEvent[], result: ResultOf<'evaluateTask'> }> {
  const events: TaskEvent[] = []
  for await (const event of client.peer.events('evaluateTask', parameters)) events.push(event as TaskEvent)
  return { predictions: events.filter((event) => event.type === 'prediction'), events, result: events.at(-1) as ResultOf<'evaluateTask'> }
}

const texts = ['a boat under the bridges', 'quiet mills', 'the river carries stone'].map((text, i) => ({ text, label: ['old', 'small'][i % 2] }))

describe('a task across the network', { timeout: 60_000 }, () => {
  it('takes the likeliest label, whose likelihood is that of the loss', async () => {
    const { predictions, result } = await evaluated({ data: await written('labels.jsonl', texts), task: { kind: 'classify', prompt: '{text}' } })
    expect(predictions.map(({ record, references }) => [record, references])).toEqual([[1, ['old']], [2, ['small']], [3, ['old']]])
    for (const [i, { prediction, logLikelihoods = {} }] of predictions.entries()) {
      for (const label of ['old', 'small']) {
        const data = await written('one.jsonl', [{ prompt: `${texts[i]!.text}\n`, completion: label }])
        const { loss, tokens } = await client.evaluate({ data })
        expect(logLikelihoods[label]).toBeCloseTo(-loss * tokens, 3)
      }
      expect(prediction).toBe(logLikelihoods.old! >= logLikelihoods.small! ? 'old' : 'small')
    }
    const right = predictions.filter(({ prediction, references }) => prediction === references[0]).length
    expect(result.metrics[0]).toMatchObject({ metric: 'accuracy', value: right / 3 })
    expect(result.baselines).toEqual([expect.objectContaining({ name: 'always "old"' })])
  })

  it('generates what a prompt of the same tokens is continued with, several at once', async () => {
    const records = texts.map(({ text }) => ({ text, question: 'and past', answer: 'old' }))
    const { predictions, result } = await evaluated({ data: await written('questions.jsonl', records), task: { kind: 'extract', maxNewTokens: 5 } })
    expect(predictions).toHaveLength(3)
    for (const [i, { prediction }] of predictions.entries()) {
      const { text } = await client.generate({ prompt: `${texts[i]!.text}\n\nand past\n`, maxTokens: 5 })
      expect(prediction).toBe(text.trim())
    }
    expect(result.metrics.map(({ metric }) => metric)).toEqual(['exact-match', 'token-f1'])
    expect(result.sentBytes).toBeGreaterThan(0)
  })

  it('has the loss of an evaluation without one', async () => {
    const data = await written('texts.jsonl', texts.map(({ text }) => ({ text })))
    const { loss, tokens } = await client.evaluate({ data })
    const { predictions, result } = await evaluated({ data, task: { kind: 'chat' } })
    expect(result.metrics[0]!.value).toBeCloseTo(loss, 5)
    expect(predictions.reduce((sum, each) => sum + each.tokens!, 0)).toBe(tokens)
  })

  it('draws as many records as are wanted, and the same for a seed', async () => {
    const data = await written('more.jsonl', Array.from({ length: 9 }, (_, i) => ({ text: 'mill'.repeat(1 + i % 3), label: String.fromCharCode(97 + i % 3) })))
    const recordsOf = async (seed: number): Promise<number[]> =>
      (await evaluated({ data, seed, limit: 4, task: { kind: 'classify' } })).predictions.map(({ record }) => record)
    const [once, again, other] = [await recordsOf(1), await recordsOf(1), await recordsOf(2)]
    expect([once.length, again, once.toSorted((a, b) => a - b)]).toEqual([4, once, once])
    expect(other).not.toEqual(once)
  })

  it('goes on after a record, and then asks what is left of what was drawn', async () => {
    const data = await written('rest.jsonl', Array.from({ length: 6 }, (_, i) => ({ text: 'mill'.repeat(1 + i), label: i % 2 === 0 ? 'a' : 'b' })))
    const whole = await evaluated({ data, limit: 5, task: { kind: 'classify' } })
    const after = whole.predictions[2]!.record
    expect((await evaluated({ data, limit: 5, after, task: { kind: 'classify' } })).predictions).toEqual(whole.predictions.slice(3))
    const { predictions, result } = await evaluated({ data, after: 6, task: { kind: 'classify' } })
    expect([predictions, result]).toMatchObject([[], { records: 0, metrics: [] }])
  })

  it('names the records that it cannot ask, and the labels that no record has', async () => {
    const data = await written('bad.jsonl', [
      ...texts, { text: 'x', label: 'other' }, { text: 'a'.repeat(80), label: 'old' }
    ])
    const { events: [start], result } = await evaluated({ data, task: { kind: 'classify', labels: ['old', 'small', 'never'] } })
    expect(start).toMatchObject({
      type: 'start', records: 3, unseenLabels: ['never'], skipped: 2,
      skippedLines: [
        { line: 4, reason: expect.stringContaining('"other", which is none of the task\'s 3 labels') as string },
        { line: 5, reason: expect.stringMatching(/^has \d+ tokens with the answer "old", and a sequence holds 65$/) as string }
      ]
    })
    expect(result.records).toBe(3)
  })

  it('learns the right answer of each record', async () => {
    const data = await written('learnt.jsonl', texts)
    const events: object[] = []
    for await (const event of client.peer.events('preview', { data, records: 1, task: { kind: 'classify', prompt: '{text}' } })) events.push(event)
    const [record] = events as Array<{ tokens: ReadonlyArray<{ text: string, counted: boolean }> }>
    expect(record!.tokens.filter(({ counted }) => counted).map(({ text }) => text.trim()).join('')).toBe('old</s>')
  })
})
