import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { temporaryFile } from '../helpers/temporary-file.ts'
import { run } from './helpers.ts'

/** A line of a file of predictions. */
function line (record: number, prediction: string): string {
  return `${JSON.stringify({ record, line: record, kind: 'classify', metrics: ['accuracy'], references: ['a'], prediction })}\n`
}

describe('midspan evaluate', () => {
  it.each([
    [['evaluate'], '--data is missing (give --data PATH'],
    [['evaluate', 'x.jsonl'], "'x.jsonl' is not expected (give data with --data)"],
    [['evaluate', '--data', 'x', '--predictions', 'y'], 'there are no predictions without a task (give --task)'],
    [['evaluate', '--data', 'x', '--task', 'qa', '--packing', 'packed'], '--packing and --sequences are of no use with --task'],
    [['evaluate', '--data', 'x', '--task', 'guess'], 'guess is no task, and no file with one (name one of classify,'],
    [['evaluate', '--data', 'x', '--base', 'y'], '--base has answers, and without a task there are none to compare with (give --task)'],
    [['evaluate', '--compare', 'x.jsonl'], 'there is no second file to compare with'],
    [['train', '--data', 'x', '--rounds', '1', '--epochs', '1'], '--rounds and --epochs say how long in two ways'],
    [['train', '--data', 'x', '--patience', '1'], '--patience needs data that is held out (give --eval-data)']
  ])('refuses %j in one line', async (args, message) => {
    const { code, out, err } = await run(args)
    expect([code, out, err]).toEqual([2, '', expect.stringContaining(message)])
    expect(err.trimEnd()).not.toContain('\n')
  })

  it('names the unknown field of a task', async () => {
    const path = await temporaryFile('mine.yaml', 'kind: qa\nlabel: x\n')
    const { code, err } = await run(['evaluate', '--data', 'x', '--task', path])
    expect([code, err]).toEqual([2, expect.stringContaining(`${path}: a task has no label (see docs/tasks.md`)])
  })

  it('says that a base is no file of predictions before anything is asked', async () => {
    const path = await temporaryFile('base.jsonl', '{"text": "a record"}\n')
    const { code, err } = await run(['evaluate', '--data', 'x', '--task', 'qa', '--base', path])
    expect([code, err]).toEqual([2, expect.stringContaining(`${path} line 1 is no prediction`)])
  })

  it.each([[], ['--resume']])('writes predictions over predictions alone, given %j', async (...more) => {
    const path = await temporaryFile('records.jsonl', '{"text": "a record"}\n')
    const { code, err } = await run(['evaluate', '--data', 'x', '--task', 'qa', '--predictions', path, ...more])
    expect([code, err]).toEqual([2, expect.stringContaining(`${path} holds something other than predictions`)])
    expect(await readFile(path, 'utf8')).toBe('{"text": "a record"}\n')
    for (const text of ['', line(1, 'a'), line(1, 'a').slice(0, 9)]) {
      const fine = await temporaryFile('after.jsonl', text)
      expect((await run(['evaluate', '--data', 'x', '--task', 'qa', '--predictions', fine, '--home', '/nowhere', ...more])).code).toBe(3)
    }
  })

  it('compares two files without a daemon', async () => {
    const [first, second] = await Promise.all([
      temporaryFile('first.jsonl', line(1, 'a') + line(2, 'b')), temporaryFile('second.jsonl', line(1, 'a') + line(2, 'a'))
    ])
    const { code, out } = await run(['evaluate', '--compare', first, second])
    expect([code, out.split('\n').slice(0, 2)]).toEqual([0, [
      `2 records answered in ${first} and in ${second}`,
      'accuracy  0.5000  1.0000  difference +0.5000  95 % interval +0.0000 to +1.0000  no difference beyond chance'
    ]])
  })
})
