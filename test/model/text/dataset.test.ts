import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { WithholdRule } from '../../../src/model/privacy/withholding.ts'
import { encodeRecord, firstRecords, firstRecordsWithheld, loadDataset, type Dataset, type DatasetOptions, type FirstRecords } from '../../../src/model/text/dataset.ts'
import { MAX_LINE_BYTES, readLines } from '../../../src/model/text/lines.ts'
import { parseRecord } from '../../../src/model/text/records.ts'
import type { Tokenizer } from '../../../src/model/text/tokenizer.ts'
import { wordTokenizer } from '../../helpers/word-tokenizer.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'midspan-dataset-'))
})
afterAll(async () => {
  await rm(dir, { recursive: true })
})

const bos = 1
const eos = 2
const words = ['<unk>', '<s>', '</s>', 'a', 'b', 'c', 'd', 'user:', 'assistant:']
const template =
  '<s> {% for m in messages %}{{ m.role }}: {{ m.content }} {% if m.role == "assistant" %}</s> {% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}'

const postProcessor = {
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [],
  special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } }
}

function tokenizer (config: Record<string, unknown> = {}): Tokenizer {
  return wordTokenizer(words, { bos_token: '<s>', eos_token: '</s>', ...config }, { postProcessor })
}

const plain = tokenizer()
const chatty = tokenizer({ chat_template: template })

async function load (
  name: string,
  content: string | Uint8Array,
  options: DatasetOptions = { lossOn: 'completion' },
  tokenizer = plain
): Promise<Dataset> {
  await writeFile(join(dir, name), content)
  return await loadDataset(join(dir, name), tokenizer, options)
}

const shown = ({ examples }: Dataset): Array<[number[], string]> => examples.map(({ ids, lossMask }) => [[...ids], lossMask.join('')])

describe('words that are withheld', () => {
  const marked = async (name: string, texts: readonly string[], rules: readonly WithholdRule[]): Promise<FirstRecords> => {
    await writeFile(join(dir, name), texts.map((text) => `${JSON.stringify({ text })}\n`).join(''))
    return await firstRecordsWithheld([join(dir, name)], 1, plain, { lossOn: 'all' }, rules)
  }

  it('are marked in the first records, by what the whole data says, and counted in all of them', async () => {
    const { records, withheld } = await marked('rare.jsonl', ['a b', 'a a', 'a a a c', 'a a'], [{ kind: 'rare', share: 0.15 }])
    expect(records).toHaveLength(1)
    expect(records[0]!.ids.length).toBe(records[0]!.withheld!.length)
    const words = records[0]!.texts.filter((_, i) => records[0]!.withheld![i])
    expect(words.map((text) => text.trim())).toEqual(['b'])
    expect(withheld!.withheldTokens).toBe(2)
  })

  it('are some, and not all', async () => {
    await expect(marked('none.jsonl', ['a b'], [{ kind: 'numbers' }])).rejects.toThrow('nothing in the data is withheld')
    await expect(marked('all.jsonl', ['a b'], [{ kind: 'rare', share: 1 }])).rejects.toThrow('every word of the data is withheld')
  })
})

describe('the first records of data', () => {
  const lines = '{"text":"a b"}\nnonsense\n{"prompt":"a ","completion":"c"}\n{"text":"d"}\nnonsense\n'
  const first = async (wanted: number, name: string): Promise<FirstRecords> => {
    await writeFile(join(dir, name), lines)
    return await firstRecords([join(dir, name)], wanted, plain, { lossOn: 'completion' })
  }

  it('are those that can be used, with the text of each token and where it counts', async () => {
    const { records, badLineCount, badLines } = await first(2, 'first.jsonl')
    expect(records.map(({ line, texts, lossMask }) => [line, texts.map((each) => each.trim()), lossMask.join('')])).toEqual([
      [1, ['<s>', 'a', 'b', '</s>'], '0111'],
      [3, ['<s>', 'a', 'c', '</s>'], '0011']
    ])
    expect([badLineCount, badLines]).toEqual([1, [{ line: 2, reason: 'is not valid JSON' }]])
  })

  it('are all where there are fewer', async () => {
    const { records, badLineCount } = await first(9, 'few.jsonl')
    expect([records.length, badLineCount]).toEqual([3, 2])
  })

  it('are refused where none can be used', async () => {
    await writeFile(join(dir, 'none.jsonl'), 'nonsense\n')
    await expect(firstRecords([join(dir, 'none.jsonl')], 1, plain, { lossOn: 'completion' }))
      .rejects.toThrow(/holds no usable record: line 1 is not valid JSON/)
  })
})

describe('a conversation of a template that ends the last answer alone', () => {
  const open = tokenizer({
    chat_template:
      '<s> {% for m in messages %}{{ m.role }}: {{ m.content }} {% if m.role == "assistant" and loop.last %}</s> {% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}'
  })
  const turns = (...contents: string[]): object[] => contents.map((content, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content }))
  const words = (ids: readonly number[]): string => open.decode(ids, { skipSpecialTokens: false })
  const counted = ({ examples }: Dataset): Array<[string, string]> =>
    examples.map(({ ids, lossMask }) => [words([...ids]), words([...ids].filter((_, i) => lossMask[i] === 1))])

  it('is a sequence for each answer, which is learnt with its end', async () => {
    const record = { messages: turns('a', 'b', 'c', 'd') }
    expect(counted(await load('apart.jsonl', JSON.stringify(record), { lossOn: 'completion' }, open))).toEqual([
      ['<s> user: a assistant: b </s>', 'b </s>'],
      ['<s> user: a assistant: b user: c assistant: d </s>', 'd </s>']
    ])
  })

  it('has no sequence for an answer that is not to be learnt', async () => {
    const [first, second, third, fourth] = turns('a', 'b', 'c', 'd')
    const record = { messages: [first, { ...second, weight: 0 }, third, fourth] }
    expect(counted(await load('apart-weight.jsonl', JSON.stringify(record), { lossOn: 'completion' }, open)))
      .toEqual([['<s> user: a assistant: b user: c assistant: d </s>', 'd </s>']])
  })

  it('counts as one record, however many sequences it is', async () => {
    const record = JSON.stringify({ messages: turns('a', 'b', 'c', 'd') })
    expect(await load('apart-count.jsonl', `${record}\n${record}\n`, { lossOn: 'completion' }, open))
      .toMatchObject({ records: 2, examples: { length: 4 }, badLineCount: 0 })
  })
})

describe('a data set', () => {
  it('counts all of a text but its first token', async () => {
    expect(shown(await load('text.jsonl', '{"text":"a b"}\n\n{"text":"c"}'))).toEqual([[[bos, 3, 4, eos], '0111'], [[bos, 5, eos], '011']])
  })

  it('passes over records from which the model cannot learn', async () => {
    const data = await load('fault.jsonl', '{"text":"a b"}\n{"text":"c"}', {
      lossOn: 'completion',
      fault: (ids) => ids.includes(3) ? 'holds an a' : undefined
    })
    expect(shown(data)).toEqual([[[bos, 5, eos], '011']])
    expect(data.badLines).toEqual([{ line: 1, reason: 'holds an a' }])
  })

  it('counts only the completion, or everything when told so', async () => {
    const line = '{"prompt":"a b ","completion":"c d"}'
    expect(shown(await load('completion.jsonl', line))).toEqual([[[bos, 3, 4, 5, 6, eos], '000111']])
    expect(shown(await load('all.jsonl', line, { lossOn: 'all' }))).toEqual([[[bos, 3, 4, 5, 6, eos], '011111']])
  })

  it('counts a token that spans the border of prompt and completion', async () => {
    expect(shown(await load('border.jsonl', '{"prompt":"a assist","completion":"ant: b"}'))).toEqual([[[bos, 3, 8, 4, eos], '00111']])
  })

  it('counts what the assistant says in each turn of a conversation', async () => {
    const messages = [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }, { role: 'user', content: 'c' }, {
      role: 'assistant',
      content: 'd'
    }]
    expect(shown(await load('chat.jsonl', JSON.stringify({ messages }), undefined, chatty))).toEqual([[[
      bos,
      7,
      3,
      8,
      4,
      eos,
      7,
      5,
      8,
      6,
      eos
    ], '00001100011']])
    expect(
      shown(await load('chat2.jsonl', JSON.stringify({ prompt: messages.slice(0, 3), completion: messages.slice(3) }), undefined, chatty))
    ).toEqual([[[bos, 7, 3, 8, 4, eos, 7, 5, 8, 6, eos], '00000000011']])
  })

  it('tells an instruction with what was said before it, where the model can be told', async () => {
    const line = '{"instruction":"c","output":"d","history":[["a","b"]]}'
    expect(shown(await load('history.jsonl', line, undefined, chatty))).toEqual([[[bos, 7, 3, 8, 4, eos, 7, 5, 8, 6, eos], '00001100011']])
    await expect(load('history2.jsonl', line)).rejects.toThrow('line 1 has a history, which only a model with a chat template is told')
  })

  it('refuses conversations with tools, of which the template would not be told', async () => {
    const messages = [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }]
    const lines = [{ messages, tools: [{ name: 'f' }] }, { messages: [messages[0], { ...messages[1], tool_calls: [{ name: 'f' }] }] }, {
      messages,
      tools: []
    }]
    const data = await load('tools.jsonl', lines.map((line) => JSON.stringify(line)).join('\n'), { lossOn: 'completion', skipBadLines: true }, chatty)
    expect(data.badLines).toEqual([{ line: 1, reason: 'tools: conversations with tools are not read' }, {
      line: 2,
      reason: 'messages.1.tool_calls: conversations with tools are not read'
    }])
    expect(data.examples).toHaveLength(1)
  })

  it('reads instructions through the chat template, or as plain text without one', async () => {
    const line = '{"instruction":"a","input":"b","output":"c"}'
    expect(shown(await load('instruction.jsonl', line, undefined, chatty))).toEqual([[[bos, 7, 3, 4, 8, 5, eos], '0000011']])
    expect(shown(await load('instruction2.jsonl', line))).toEqual([[[bos, 3, 4, 5, eos], '00011']])
  })

  it('reads plain text as documents between blank lines', async () => {
    expect(shown(await load('plain.txt', 'a b\r\nc\n\n \n\nd\n'))).toEqual([[[bos, 3, 4, 5, eos], '01111'], [[bos, 6, eos], '011']])
  })

  it('cuts examples at the longest length and leaves out those with nothing left to learn', async () => {
    const data = await load('cut.jsonl', '{"prompt":"a ","completion":"b c d"}\n{"prompt":"a b c d ","completion":"a"}', {
      lossOn: 'completion',
      maxLength: 4
    })
    expect(shown(data)).toEqual([[[bos, 3, 4, 5], '0011']])
    expect(data).toMatchObject({
      tokens: 4,
      countedTokens: 2,
      truncated: 1,
      badLineCount: 1,
      badLines: [{ line: 2, reason: 'has nothing to learn within its first 4 tokens' }]
    })
  })

  it('reports bad lines by number and reason, only the first of many', async () => {
    const bad = [
      '{',
      '[]',
      '{"x":1}',
      '{"text":3}',
      '{"prompt":"a"}',
      '{"messages":[]}',
      '{"messages":[{"role":"user","content":"a"}]}',
      '{"text":" "}'
    ]
    const lines = ['{"text":"a"}', ...bad, ...Array<string>(100).fill('?')].join('\n')
    const data = await load('bad.jsonl', lines, { lossOn: 'completion', skipBadLines: true })
    expect(data.badLineCount).toBe(bad.length + 100)
    expect(data.badLines).toHaveLength(20)
    expect(data.badLines.slice(0, 8).map(({ line, reason }) => `${line} ${reason}`)).toEqual([
      '2 is not valid JSON',
      '3 is not a JSON object',
      expect.stringContaining('4 has none of the fields'),
      expect.stringContaining('5 text:'),
      expect.stringContaining('6 completion:'),
      expect.stringContaining('7 messages:'),
      '8 has no message by the assistant',
      '9 is empty'
    ])
  })

  it('reports a conversation that the model has no template for', async () => {
    await expect(load('chat3.jsonl', '{"messages":[{"role":"assistant","content":"a"}]}')).rejects.toThrow(
      'no usable record: line 1 this model has no chat template'
    )
  })

  it('is an error when no line is usable', async () => {
    await expect(load('none.jsonl', '\n\n')).rejects.toMatchObject({ code: 'E_DATASET' })
  })

  it('reports lines that are not UTF-8 or far too long, and reads on', async () => {
    const data = await load(
      'bytes.jsonl',
      Buffer.concat([Buffer.of(0xff, 0x0a), Buffer.alloc(MAX_LINE_BYTES + 1, 0x20), Buffer.from('\n{"text":"a"}')]),
      { lossOn: 'completion', skipBadLines: true }
    )
    expect(data.badLines.map(({ reason }) => reason)).toEqual(['is not UTF-8', `is longer than ${MAX_LINE_BYTES} bytes`])
    expect(data.examples).toHaveLength(1)
  })

  it('names a file that is not there, or is none', async () => {
    for (const path of [join(dir, 'absent.jsonl'), dir])
      await expect(loadDataset(path, plain, { lossOn: 'all' })).rejects.toMatchObject({
        code: 'E_DATASET',
        message: expect.stringContaining(path) as string
      })
  })

  it('stops when told to', async () => {
    await writeFile(join(dir, 'abort.jsonl'), '{"text":"a"}\n')
    await expect(loadDataset(join(dir, 'abort.jsonl'), plain, { lossOn: 'all' }, AbortSignal.abort())).rejects.toThrow('abort')
  })
})

describe('reading lines', () => {
  it('gives the same lines wherever the chunks of the file fall', async () => {
    const lines = Array.from({ length: 400 }, (_, i) => 'é'.repeat((i * 7919) % 2000))
    await writeFile(join(dir, 'chunks'), lines.join('\n'))
    const read: string[] = []
    for await (const found of readLines(join(dir, 'chunks'))) read.push('text' in found ? found.text : found.reason)
    expect(read).toEqual(lines)
  })
})

describe('a line of JSONL', () => {
  it('is a record or has a reason, whatever it holds', () => {
    const field = fc.constantFrom(
      'text',
      'messages',
      'prompt',
      'completion',
      'instruction',
      'input',
      'output',
      'history',
      'tools',
      'role',
      'content'
    )
    const value =
      fc.letrec<{ any: unknown }>((tie) => ({
        any: fc.oneof({ maxDepth: 4 }, fc.string(), fc.jsonValue(), fc.array(tie('any')), fc.dictionary(field, tie('any')))
      })).any
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.dictionary(field, value).map((record) => JSON.stringify(record))),
        fc.boolean(),
        (line, chat) => {
          const record = parseRecord(line, chat)
          if ('reason' in record) return
          const example = encodeRecord(record, chatty, 'completion')
          if ('ids' in example) expect(example.lossMask.length).toBe(example.ids.length)
        }
      ),
      { numRuns: 500 }
    )
  })
})
