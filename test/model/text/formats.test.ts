import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadDataset } from '../../../src/model/text/dataset.ts'
import { readRecords } from '../../../src/model/text/read-records.ts'
import { recordOf } from '../../../src/model/text/records.ts'
import { wordTokenizer } from '../../helpers/word-tokenizer.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'midspan-formats-'))
})
afterAll(async () => {
  await rm(dir, { recursive: true })
})

const user = (content: string) => ({ role: 'user', content })
const assistant = (content: string) => ({ role: 'assistant', content })
const chat = (...messages: object[]) => ({ kind: 'chat', messages, learnFrom: 0 })

describe('issue 9, A9: a record', () => {
  it.each([
    ['ShareGPT', { conversations: [{ from: 'human', value: 'q' }, { from: 'gpt', value: 'a' }] }, chat(user('q'), assistant('a'))],
    ['conversations of role and content', { conversations: [user('q'), assistant('a')] }, chat(user('q'), assistant('a'))],
    ['content and summary', { content: 'q', summary: 'a' }, chat(user('q'), assistant('a'))],
    ['prompt, response and history', { prompt: 'q', response: 'a', history: [['x', 'y']] }, chat(user('x'), assistant('y'), user('q'), assistant('a'))],
    ['question and answer', { question: 'q', answer: 'a' }, chat(user('q'), assistant('a'))],
    ['Alpaca with an empty output', { instruction: 'q', input: '', output: '' }, chat(user('q'), assistant(''))],
    ['null columns', { text: null, messages: null, instruction: null, prompt: 'q', completion: 'a' }, { kind: 'completion', prompt: 'q', completion: 'a' }],
    ['parts', { messages: [{ role: 'user', content: [{ type: 'text', text: 'q' }, { type: 'text', text: 'r' }] }, assistant('a')] }, chat(user('q\nr'), assistant('a'))],
    ['a system text', { system: 's', messages: [user('q'), assistant('a')] }, chat({ role: 'system', content: 's' }, user('q'), assistant('a'))],
    ['input and output', { input: 'q', output: 'a' }, chat(user('q'), assistant('a'))]
  ])('of %s', (_, value, record) => {
    expect(recordOf(value, true)).toEqual(record)
  })

  it('of other names by --map', () => {
    expect(recordOf({ text: 'q', label: 'a' }, true, { prompt: 'text', completion: 'label' })).toEqual({ kind: 'completion', prompt: 'q', completion: 'a' })
    expect(recordOf({ text: 'q' }, true, { completion: 'label' })).toEqual({ reason: 'has no column label, which --map names' })
  })

  it('learns no message of weight 0 or train: false (A6)', () => {
    const messages = [user('q'), { ...assistant('a'), weight: 0 }, user('r'), assistant('b'), user('s'), { ...assistant('c'), train: false }]
    expect(recordOf({ messages }, true)).toMatchObject({ unlearnt: new Set([1, 5]) })
  })
})

async function values (name: string, content: string | Uint8Array): Promise<unknown[]> {
  await writeFile(join(dir, name), content)
  const found: unknown[] = []
  for await (const each of readRecords([join(dir, name)], { chatInstructions: false })) found.push('record' in each ? [each.line, each.record] : each)
  return found
}

const text = (value: string) => ({ kind: 'text', text: value })

describe('issue 9, A6 and A9: a file', () => {
  it.each([
    ['one record a line in an array', '[{"text":"a"},\n{"text":"b [,]\\""}\n]'],
    ['an array on one line', '[{"text":"a"},{"text":"b [,]\\""}]'],
    ['an indented array', JSON.stringify([{ text: 'a' }, { text: 'b [,]"' }], null, 2)],
    ['an array after a byte order mark', '\ufeff[{"text":"a"},{"text":"b [,]\\""}]'],
    ['JSON lines after a byte order mark', '\ufeff{"text":"a"}\n{"text":"b [,]\\""}'],
    ['an object with a list', JSON.stringify({ version: 1, data: [{ text: 'a' }, { text: 'b [,]"' }] }, null, 1)],
    ['an object of records by id', JSON.stringify({ x: { text: 'a' }, y: { text: 'b [,]"' } }, null, 1)]
  ])('of %s', async (_, content) => {
    expect((await values('records.json', content)).map((found) => (found as unknown[])[1])).toEqual([text('a'), text('b [,]"')])
  })

  it('names the line of what is not JSON in an array, and an array that does not end', async () => {
    expect(await values('broken.json', '[\n{"text":"a"},\n{"text":},\n{"text":"b"')).toEqual([
      [2, text('a')], { line: 3, reason: 'is not valid JSON' }, { line: 4, reason: 'is the start of a JSON array that does not end' }
    ])
  })

  it('of comma or tab separated values with a header, packed or not', async () => {
    const record = { kind: 'completion', prompt: 'q,"\n1', completion: 'a' }
    expect((await values('table.csv', 'prompt,completion\r\n"q,""\n1",a\r\n')).map((found) => (found as unknown[])[1])).toEqual([record])
    expect((await values('table.tsv', 'prompt\tcompletion\nq\ta\n')).map((found) => (found as unknown[])[1])).toEqual([{ ...record, prompt: 'q' }])
    expect((await values('table.csv.gz', gzipSync('prompt,completion\nq,a\n'))).map((found) => (found as unknown[])[1])).toEqual([{ ...record, prompt: 'q' }])
    expect((await values('lines.jsonl.gz', gzipSync('{"text":"a"}\n'))).map((found) => (found as unknown[])[1])).toEqual([text('a')])
    await expect(values('bad.jsonl.gz', 'no gzip')).rejects.toMatchObject({ code: 'E_DATASET' })
  })

  it('of Parquet', async () => {
    const rows = await values('rows.parquet', Buffer.from(PARQUET, 'base64'))
    expect(rows).toEqual([[1, text('a')], [2, text('b')]])
    await expect(values('bad.parquet', 'no parquet')).rejects.toMatchObject({ code: 'E_DATASET' })
  })

  it('of a directory, each named in what is said of it', async () => {
    await mkdir(join(dir, 'several'))
    await writeFile(join(dir, 'several', 'a.jsonl'), '{"text":"a"}\n')
    await writeFile(join(dir, 'several', 'b.json'), '[{"text":"b"}, 3]')
    const data = await loadDataset(join(dir, 'several'), wordTokenizer(['<unk>', '<s>', '</s>', 'a', 'b'], { eos_token: '</s>' }), { lossOn: 'all' })
    expect(data.examples).toHaveLength(2)
    expect(data.badLines).toEqual([{ file: join(dir, 'several', 'b.json'), line: 1, reason: 'is not a JSON object' }])
  })
})

describe('issue 9, A6 to A8: a data set', () => {
  const tokenizer = wordTokenizer(['<unk>', '<s>', '</s>', 'a', 'b'], { bos_token: '<s>', eos_token: '</s>' })
  const load = async (content: string, options = {}) => {
    await writeFile(join(dir, 'set.jsonl'), content)
    return await loadDataset(join(dir, 'set.jsonl'), tokenizer, { lossOn: 'all', ...options })
  }

  it('leaves out a record with a token beyond the vocabulary, and names its line', async () => {
    const data = await load('{"text":"a"}\n{"text":"a b"}', { vocabularySize: 4 })
    expect(data.examples).toHaveLength(1)
    expect(data.badLines).toEqual([{ line: 2, reason: 'holds the token "b" (4), beyond the model\'s vocabulary of 4' }])
  })

  it('names the records that are cut and lose their end', async () => {
    const data = await load('{"text":"a b a b"}\n{"text":"a"}', { maxLength: 3 })
    expect(data).toMatchObject({ truncated: 1, noticeCount: 1, notices: [{ line: 1, reason: 'is cut at 3 of 5 tokens, so that its end is not learnt' }] })
  })

  it('of which more than half is unusable is refused, unless it is told to go on', async () => {
    const content = `{"text":"a"}\n${'?\n'.repeat(50)}`
    await expect(load(content)).rejects.toMatchObject({ message: expect.stringContaining('50 of 51 records') as string, next: expect.stringContaining('--skip-bad-lines') as string })
    expect(await load(content, { skipBadLines: true })).toMatchObject({ badLineCount: 50, records: 51 })
  })

  it('begins a text that begins with the token that begins a sequence once', async () => {
    const postProcessor = {
      type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }], pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } }
    }
    const begins = wordTokenizer(['<unk>', '<s>', '</s>', 'a', 'b'], { bos_token: '<s>', eos_token: '</s>' }, { postProcessor })
    await writeFile(join(dir, 'bos.jsonl'), '{"text":"<s> a"}')
    expect([...(await loadDataset(join(dir, 'bos.jsonl'), begins, { lossOn: 'all' })).examples[0]!.ids]).toEqual([1, 3, 2])
  })
})

/** Two rows of one column `text`, packed with Zstandard, as pyarrow writes them. */
const PARQUET = 'UEFSMRUEFRQVJkwVBBUAEgAAKLUv/SAKUQAAAQAAAGEBAAAAYhUAFRIVJCwVBBUQFQYVBhwAAAAotS/9IAlJAAACAAAABAEBAwIVBBksNQAYBnNjaGVtYRUC' +
  'ABUMJQIYBHRleHQlAEwcAAAAFgQZHBkcJgAcFQwZNQAGEBkYBHRleHQVDBYEFmgWjAEmSiYIKSwVBBUAFQIAFQAVEBUCADwWBBkGGSYABAAAABZoFgQmCBaM' +
  'AQAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjYuMC4xGRwcAAAAlAAAAFBBUjE='
