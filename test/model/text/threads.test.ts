import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { asFileError } from '../../../src/errors.ts'
import { firstRecords, loadDataset, type DatasetOptions } from '../../../src/model/text/dataset.ts'
import { loadTokenizer } from '../../../src/model/text/load.ts'
import { firstRecordsInThread, loadDatasetInThread, type DatasetTask } from '../../../src/model/text/threads/dataset-thread.ts'
import { TokenizerThread } from '../../../src/model/text/threads/tokenizer-thread.ts'
import { writeTinyData, writeTinyModel } from '../../helpers/tiny-model.ts'
import { temporaryDirectory } from '../../node/fixture.ts'

const never = new AbortController().signal
const template = '{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}a {% endif %}'

/** Patterns that a text of many a's sends back again and again, and templates that work without end. */
const hostilePattern = { type: 'Split', pattern: { Regex: '(a|a)*b(?!c)' }, behavior: 'Isolated', invert: false }
const hostileTemplate = "{% set ns = namespace(x='a') %}{% for i in range(100000) %}{% set ns.x = ('a' * 5000000) | upper | lower %}{% endfor %}"
const hostileText = 'a'.repeat(64)

async function modelDirectory (changes: { tokenizer?: object, template?: string } = {}): Promise<string> {
  const dir = await temporaryDirectory()
  await writeTinyModel(dir)
  const path = join(dir, 'tokenizer.json')
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')) as object, ...changes.tokenizer }))
  await writeFile(join(dir, 'tokenizer_config.json'), JSON.stringify({ chat_template: changes.template ?? template, eos_token: '</s>' }))
  return dir
}

async function taskOf (changes: Partial<DatasetTask> = {}): Promise<DatasetTask> {
  const dir = changes.dir ?? await modelDirectory()
  const data = join(dir, 'data')
  await mkdir(data, { recursive: true })
  await writeTinyData(join(data, 'a.jsonl'), 1)
  await writeFile(join(data, 'b.jsonl'), '{"text":"the river"}\nnonsense\n{"prompt":"a ","completion":"boat"}\n')
  return { dir, paths: [data], options: { lossOn: 'completion', maxLength: 12, vocabularySize: 32 }, ...changes }
}

function thread (dir: string, maxHeapMib?: number): TokenizerThread {
  const opened = new TokenizerThread(dir, maxHeapMib)
  onTestFinished(async () => { await opened.close() })
  return opened
}

/** The longest time for which this thread did nothing else while `work` went on. */
async function longestPauseMs (work: () => Promise<unknown>): Promise<number> {
  let [longest, last, done] = [0, performance.now(), false]
  const ticks = (async () => {
    while (!done) {
      await delay(5)
      longest = Math.max(longest, performance.now() - last)
      last = performance.now()
    }
  })()
  await work()
  done = true
  await ticks
  return longest
}

describe('data that is read in a thread', { timeout: 60_000 }, () => {
  it('is what this thread would have read', async () => {
    const task = await taskOf()
    const tokenizer = await loadTokenizer(task.dir)
    const options: DatasetOptions = task.options
    expect(await loadDatasetInThread(task, never)).toEqual(await loadDataset(task.paths, tokenizer, options))
    expect(await firstRecordsInThread({ ...task, first: 3 }, never)).toEqual(await firstRecords(task.paths, 3, tokenizer, options))
  })

  it('ends with the errors that this thread would have thrown', async () => {
    const task = await taskOf()
    await writeFile(join(task.dir, 'empty.jsonl'), 'nonsense\n')
    await expect(loadDatasetInThread({ ...task, paths: [join(task.dir, 'empty.jsonl')] }, never)).rejects.toMatchObject({
      name: 'DatasetError', code: 'E_DATASET', next: expect.stringContaining('docs/data.md') as string
    })
    const missing = await loadDatasetInThread({ ...task, paths: [join(task.dir, 'missing.jsonl')] }, never).catch((error: unknown) => error)
    expect(asFileError(missing) ?? missing).toMatchObject({ message: expect.stringContaining('missing.jsonl') as string })
    await expect(loadDatasetInThread({ ...task, dir: task.paths[0]! }, never)).rejects.toMatchObject({ code: 'E_TOKENIZER' })
  })

  it.each([
    ['pattern', { tokenizer: { pre_tokenizer: hostilePattern } }, JSON.stringify({ text: hostileText })],
    ['template', { template: hostileTemplate }, JSON.stringify({ messages: [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }] })]
  ])('holds up nothing else by a hostile %s, and ends when it is told to', async (_, changes, line) => {
    const dir = await modelDirectory(changes)
    await writeFile(join(dir, 'hostile.jsonl'), `${line}\n`)
    const stop = new AbortController()
    const reading = loadDatasetInThread({ ...await taskOf({ dir }), paths: [join(dir, 'hostile.jsonl')] }, stop.signal)
    const ended = reading.catch((error: unknown) => error)
    // On the main thread the record takes ten seconds to be refused; a busy machine may keep this thread waiting for one or two.
    expect(await longestPauseMs(async () => { await delay(1_500) })).toBeLessThan(5_000)
    stop.abort(new Error('enough'))
    // Work that nobody ends is refused in the end, with another error.
    expect(await ended).toMatchObject({ message: 'enough' })
  })
})

describe('a tokenizer in a thread', { timeout: 60_000 }, () => {
  it('answers as the tokenizer does', async () => {
    const dir = await modelDirectory()
    const here = await loadTokenizer(dir)
    const there = thread(dir)
    expect(await there.facts()).toEqual({ bosId: here.bosId, eosIds: here.eosIds })
    expect(await there.encode('the river')).toEqual(here.encode('the river'))
    const messages = [{ role: 'user', content: 'the boat' }]
    expect(await there.encodeChat(messages)).toEqual(here.encodeChat(messages, { addGenerationPrompt: true }))
    const ids = here.encode('stone bridges', { addSpecialTokens: false })
    const [first, second] = [await there.openDecodeStream([]), await there.openDecodeStream([])]
    let text = ''
    for (const id of ids) {
      text += await first.push(id)
      await second.push(ids[0]!)
    }
    expect(text + await first.end()).toBe(here.decode(ids))
  })

  it('says what the tokenizer refuses, and answers on', async () => {
    const there = thread(await modelDirectory({ template: "{{ raise_exception('no such role') }}" }))
    await expect(there.encodeChat([{ role: 'user', content: 'a' }])).rejects.toMatchObject({
      name: 'TokenizerError', code: 'E_TOKENIZER', message: expect.stringContaining('no such role') as string
    })
    expect(await there.encode('the')).toHaveLength(4)
  })

  it('names the file that cannot be read', async () => {
    await expect(thread(await temporaryDirectory()).facts()).rejects.toMatchObject({
      code: 'E_TOKENIZER', message: expect.stringContaining('tokenizer.json') as string
    })
  })

  it('ends alone where it takes too much memory, and is started again by the next question', async () => {
    const there = thread(await modelDirectory(), 32)
    await expect(there.encode('the river '.repeat(3_000_000))).rejects.toMatchObject({
      code: 'E_TOKENIZER', message: 'the tokenizer took more than 32 MiB of memory'
    })
    expect(await there.encode('the')).toHaveLength(4)
  })

  it('answers in another thread what waited behind the question that took too much', async () => {
    const there = thread(await modelDirectory(), 32)
    const stream = await there.openDecodeStream([])
    const [tooMuch, behind] = await Promise.allSettled([there.encode('the river '.repeat(3_000_000)), there.encode('the')])
    expect(tooMuch).toMatchObject({ status: 'rejected', reason: { code: 'E_TOKENIZER' } })
    expect(behind).toMatchObject({ status: 'fulfilled', value: { length: 4 } })
    // What came before in the stream is lost, which nobody takes for its end.
    await expect(stream.push(1)).rejects.toMatchObject({ code: 'E_TOKENIZER' })
  })

  it('is closed once', async () => {
    const there = thread(await modelDirectory())
    await there.close()
    await there.close()
    await expect(there.encode('the')).rejects.toMatchObject({ code: 'E_TOKENIZER' })
  })
})
