import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadDataset } from '../../../src/model/text/dataset.ts'
import { MAX_LINE_BYTES, NOT_UTF8, TOO_LONG } from '../../../src/model/text/lines.ts'
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

  it.each([
    ['ShareGPT with weights, as axolotl reads them', { conversations: [{ from: 'human', value: 'q' }, { from: 'gpt', value: 'a', weight: 0 }, { from: 'gpt', value: 'b' }] },
      { ...chat(user('q'), assistant('a'), assistant('b')), unlearnt: new Set([1]) }],
    ['ms-swift with loss', { messages: [user('q'), { ...assistant('a'), loss: false }, user('r'), { ...assistant('b'), loss: true }] },
      { ...chat(user('q'), assistant('a'), user('r'), assistant('b')), unlearnt: new Set([1]) }],
    ['a thought under its other names', { messages: [user('q'), { ...assistant('a'), thinking: 't' }, user('r'), { ...assistant('b'), reasoning: 'u' }] },
      chat(user('q'), { ...assistant('a'), reasoning_content: 't' }, user('r'), { ...assistant('b'), reasoning_content: 'u' })],
    ['roles by other names and in capitals', { messages: [{ role: 'System', content: 's' }, { role: 'human', content: 'q' }, { role: 'Assistant', content: 'a' }, { role: 'user', content: 'r' }, { role: 'bot', content: 'b' }] },
      chat({ role: 'system', content: 's' }, user('q'), assistant('a'), user('r'), assistant('b'))],
    ['a list for each field of its messages, as the library datasets writes them', { conversations: { from: ['human', 'gpt'], value: ['q', 'a'] } }, chat(user('q'), assistant('a'))],
    ['OpenOrca', { system_prompt: 's', question: 'q', response: 'a' }, chat({ role: 'system', content: 's' }, user('q'), assistant('a'))],
    ['Dolly', { instruction: 'q', context: 'c', response: 'a' }, chat(user('q\nc'), assistant('a'))],
    ['a question about a context', { context: 'c', question: 'q', answer: 'a' }, chat(user('c\nq'), assistant('a'))]
  ])('of %s (A6)', (_, value, record) => {
    expect(recordOf(value, true)).toEqual(record)
  })

  it.each([
    ['system texts that are two', { system: 's', system_prompt: 't', question: 'q', answer: 'a' }, 'has system and system_prompt: only one can be told'],
    ['thoughts that are two', { messages: [user('q'), { ...assistant('a'), thinking: 't', reasoning_content: 'u' }] }, 'messages.1 has several thoughts'],
    ['a weight that is neither 0 nor 1', { messages: [user('q'), { ...assistant('a'), weight: 0.5 }] }, 'messages.1.weight: only 0 and 1'],
    ['a number for a text', { prompt: 1, completion: 'a' }, 'prompt: '],
    ['a role of ShareGPT that is none', { conversations: [{ from: 'function_call', value: 'q' }] }, 'is no role that is read']
  ])('with %s is refused by name', (_, value, reason) => {
    expect(recordOf(value, true)).toEqual({ reason: expect.stringContaining(reason) as string })
  })

  it('tells which fields it is not read by, in itself and in its messages (A6)', () => {
    expect(recordOf({ id: 1, empty: '', none: null, text: 'a' }, true)).toEqual({ kind: 'text', text: 'a', unread: ['id'] })
    expect(recordOf({ messages: [{ ...user('q'), train: true, id: 'x' }, { ...assistant('a'), images: [] }], source: 's' }, true))
      .toMatchObject({ unread: ['source', 'messages.id', 'messages.train of the user'] })
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

  it('of Parquet with nulls, and with numbers in messages', async () => {
    const messages = [{ role: 'user', content: 'q' }, { role: 'assistant', content: 'a' }, { role: 'assistant', content: 'b' }]
    expect(await values('nested.parquet', Buffer.from(NESTED, 'base64')))
      .toEqual([[1, { ...chat(...messages), unlearnt: new Set([2]) }], [2, text('plain')]])
  })

  it.each([
    ['array', (records: unknown[]) => JSON.stringify(records)],
    ['object with a list', (records: unknown[]) => JSON.stringify({ version: '2.0', data: records })]
  ])('of one %s on a line that is longer than a line of records may be, as json.dump writes it', async (_, write) => {
    const long = { text: 'a'.repeat(1_500_000) }
    const found = await values('one-line.json', write([long, long, long, { text: 'b' }]))
    expect(found.map((each) => Array.isArray(each))).toEqual([true, true, true, true])
    expect(found.at(-1)).toEqual([1, text('b')])
  })

  it('of an array with a record that is too long, which alone is left out', async () => {
    const found = await values('long.json', `[{"text":"${'a'.repeat(MAX_LINE_BYTES)}"},\n{"text":"b"}]`)
    expect(found).toEqual([{ line: 1, reason: TOO_LONG }, [2, text('b')]])
  })

  it.each([
    ['lines', 'latin.jsonl', '{"text":"caf\xe9"}\n{"text":"b"}\n', 1],
    ['array', 'latin.json', '[{"text":"caf\xe9"},\n{"text":"b"}]', 1],
    ['object', 'latin2.json', '{"data":[\n{"text":"caf\xe9"},{"text":"b"}]}', 1],
    ['table', 'latin.csv', 'text\ncaf\xe9\nb\n', 2],
    ['text', 'latin.txt', 'caf\xe9\n\nb\n', 1]
  ])('whose bytes are not UTF-8 in a record of its %s: that record is named, and not changed', async (_, name, content, line) => {
    const found = await values(name, Buffer.from(content, 'latin1'))
    expect(found[0]).toEqual({ line, reason: NOT_UTF8 })
    expect((found[1] as unknown[])[1]).toEqual(text('b'))
  })

  it.each(['utf16.txt', 'utf16.jsonl', 'utf16.json'])('of UTF-16 is refused with what to do: %s', async (name) => {
    await expect(values(name, Buffer.from('\ufeff{"text":"a"}\n{"text":"b"}\n', 'utf16le')))
      .rejects.toMatchObject({ message: expect.stringContaining('is UTF-16') as string, next: expect.stringContaining('UTF-8') as string })
  })

  it('of UTF-16 is read where it is a table, and refused line by line where nothing says that it is', async () => {
    expect((await values('utf16.csv', Buffer.from('\ufefftext\r\na\r\n', 'utf16le'))).map((found) => (found as unknown[])[1])).toEqual([text('a')])
    expect((await values('bare.txt', Buffer.from('a\nb\n', 'utf16le'))).every((found) => !Array.isArray(found))).toBe(true)
  })

  it('names the row of a table that has more values than columns', async () => {
    expect(await values('more.csv', 'prompt,completion\nhello, you,a\nq,a\n')).toEqual([
      { line: 2, reason: 'has 3 values, and the header 2 columns: put values that hold the separator in quotes' },
      [3, { kind: 'completion', prompt: 'q', completion: 'a' }]
    ])
  })

  it('of values separated by semicolons, as spreadsheets write them', async () => {
    const record = { kind: 'completion', prompt: 'q, 1;2', completion: 'a' }
    expect((await values('semicolons.csv', 'prompt;completion\n"q, 1;2";a\n')).map((found) => (found as unknown[])[1])).toEqual([record])
    expect((await values('quoted.csv', '\ufeff"prompt";"completion"\r\n"q, 1;2";"a"\r\n')).map((found) => (found as unknown[])[1])).toEqual([record])
  })

  it('of a table with a column of numbers without a name, spaces around names, and rows of several lines, which are named by their first', async () => {
    expect(await values('pandas.csv', ', prompt ,completion\n0,"q\nr",a\n1,,a\n')).toEqual([
      [2, { kind: 'completion', prompt: 'q\nr', completion: 'a' }],
      { line: 4, reason: expect.stringContaining('has none of the fields') as string }
    ])
  })

  it('names a column that a table has twice, of which one would be lost', async () => {
    await expect(values('twice.csv', 'prompt,completion,prompt\nq,a,r\n')).rejects.toThrow('two of its columns are named "prompt"')
  })

  it('has no value where a cell of a table is empty, so that the other columns tell what a row is', async () => {
    expect((await values('empties.csv', 'prompt,completion,text\n,,t\nq,a,\n')).map((found) => (found as unknown[])[1]))
      .toEqual([text('t'), { kind: 'completion', prompt: 'q', completion: 'a' }])
  })

  it.each(['pipe.csv', 'pipe.jsonl', 'pipe.parquet'])('that is none, such as a pipe that nobody writes to, is refused: %s', async (name) => {
    execFileSync('mkfifo', [join(dir, name)])
    await expect(async () => {
      for await (const found of readRecords([join(dir, name)], { chatInstructions: false })) void found
    }).rejects.toThrow('is no file')
  })

  it.each([
    ['array', 'replaced.json', JSON.stringify([{ text: 'a\ufffd' }, { text: 'b' }])],
    ['object', 'replaced2.json', JSON.stringify({ data: [{ text: 'a\ufffd' }, { text: 'b' }] })],
    ['table', 'replaced.csv', 'text\na\ufffd\nb\n'],
    ['lines', 'replaced.jsonl', '{"text":"a\ufffd"}\n{"text":"b"}\n']
  ])('of which a text has the replacement character itself, which is UTF-8: %s', async (_, name, content) => {
    expect((await values(name, content)).map((found) => (found as unknown[])[1])).toEqual([text('a\ufffd'), text('b')])
  })

  it('that is named twice is refused, by whatever names', async () => {
    await writeFile(join(dir, 'once.jsonl'), '{"text":"a"}\n')
    await symlink('once.jsonl', join(dir, 'again.jsonl'))
    for (const other of ['once.jsonl', 'again.jsonl'])
      await expect(loadDataset([join(dir, 'once.jsonl'), join(dir, other)], wordTokenizer(['<unk>', '<s>', '</s>', 'a']), { lossOn: 'all' }))
        .rejects.toMatchObject({ code: 'E_DATASET', message: expect.stringContaining('count twice') as string })
  })

  it('of JSON lines whose first record has a list besides is no object with a list of records', async () => {
    expect(await values('listed.jsonl', '{"text":"a","data":[1,2]}\n{"text":"b"}\n')).toEqual([[1, { ...text('a'), unread: ['data'] }], [2, text('b')]])
  })

  it.each(['empty.jsonl', 'empty.json', 'empty.csv', 'empty.txt'])('without a byte has no record: %s', async (name) => {
    expect(await values(name, '')).toEqual([])
  })

  it('of a directory leaves out what is hidden, is no data file, or is a directory', async () => {
    const odd = join(dir, 'odd')
    await mkdir(join(odd, 'sub.json'), { recursive: true })
    await writeFile(join(odd, '._a.jsonl'), Buffer.of(0, 5, 22, 7))
    await writeFile(join(odd, 'README.md'), '# data')
    await writeFile(join(odd, 'A.JSONL.GZ'), gzipSync('{"text":"a"}\n'))
    const found: unknown[] = []
    for await (const each of readRecords([odd], { chatInstructions: false })) found.push(each)
    expect(found).toEqual([{ line: 1, record: text('a') }])
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

  it('has one remark for each field that is not read, with how many records have it', async () => {
    const data = await load('{"text":"a","id":1}\n{"text":"b","id":2,"tags":["x"]}\n{"text":"a"}')
    expect(data).toMatchObject({ noticeCount: 2, notices: [
      { line: 1, reason: 'has id, which is not read; nor is that of 1 further record' }, { line: 2, reason: 'has tags, which is not read' }
    ] })
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

/** Rows with a null and with messages that have an integer of 64 bits, packed with Snappy, as pyarrow writes them. */
const NESTED = 'UEFSMRUAFR4VIiwVBBUAFQYVBhwAAAAPOAIAAAADAgUAAABwbGFpbhUAFWAVYCwVCBUAFQYVBhwAAAAwGAIAAAADBgQBBggkAQABCHR1c2VyCQAAAGFzc2lz' +
  'dGFudAkAAABhc3Npc3RhbnQVABU6FTwsFQgVABUGFQYcAAAAHRgCAAAAAwYEAQZEJAEAAQAAAHEBAAAAYQEAAABiFQAVPBU+LBUIFQAVBhUGHAAAAB4YAgAA' +
  'AAMGBAEGSCMBAAEAAAAAAAAAAAAAAAAAAAAVBBmMNQAYBnNjaGVtYRUEABUMJQIYBHRleHQlAEwcAAAANQIYCG1lc3NhZ2VzFQIVBkw8AAAANQQYBGxpc3QV' +
  'AgA1AhgHZWxlbWVudBUGABUMJQIYBHJvbGUlAEwcAAAAFQwlAhgHY29udGVudCUATBwAAAAVBCUCGAZ3ZWlnaHQAFgQZHBlMJgAcFQwZJQYAGRgEdGV4dBUC' +
  'FgQWRBZIJghJHBUAFQAVAgA8FgoZBhkmAgIAAAAmABwVDBklBgAZSAhtZXNzYWdlcwRsaXN0B2VsZW1lbnQEcm9sZRUCFggWhgEWhgEmUEkcFQAVABUCADwW' +
  'LBkmBAQZVgIAAAAGAAAAJgAcFQwZJQYAGUgIbWVzc2FnZXMEbGlzdAdlbGVtZW50B2NvbnRlbnQVAhYIFmAWYibWAUkcFQAVABUCADwWBhkmBAQZVgIAAAAG' +
  'AAAAJgAcFQQZJQYAGUgIbWVzc2FnZXMEbGlzdAdlbGVtZW50BndlaWdodBUCFggWYhZkJrgCSRwVABUAFQIAPCkmBAQZVgIAAAIEAAAAFowDFgQmCBaUAwAo' +
  'IHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjYuMC4xGUwcAAAcAAAcAAAcAAAA2AEAAFBBUjE='
