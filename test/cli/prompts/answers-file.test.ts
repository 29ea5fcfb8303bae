import { appendFile, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { AnswersFile } from '../../../src/cli/prompts/answers-file.ts'
import { temporaryDirectory } from '../../node/fixture.ts'

describe('a file of answers', () => {
  it('holds each answer on a line, for its owner alone', async () => {
    const path = join(await temporaryDirectory(), 'answers.jsonl')
    const answers = await AnswersFile.open(path)
    await Promise.all([answers.add({ line: 2, text: 'a\nb' }), answers.add({ line: 1, text: '' })])
    expect([answers.size, answers.has(1), answers.has(3)]).toEqual([2, true, false])
    await answers.close()
    expect(await readFile(path, 'utf8')).toBe('{"line":2,"text":"a\\nb"}\n{"line":1,"text":""}\n')
    expect((await stat(path)).mode & 0o777).toBe(0o600)
  })

  it('goes on after the last whole line, wherever a run was cut off', async () => {
    const path = join(await temporaryDirectory(), 'answers.jsonl')
    const whole = '{"line":1,"text":"x"}\n'
    const next = '{"line":2,"text":"é"}\n'
    for (let bytes = 0; bytes < Buffer.byteLength(next); bytes++) {
      await writeFile(path, Buffer.concat([Buffer.from(whole), Buffer.from(next).subarray(0, bytes)]))
      const answers = await AnswersFile.open(path)
      expect([answers.has(1), answers.has(2)]).toEqual([true, false])
      await answers.add({ line: 2, text: 'é' })
      await answers.close()
      expect(await readFile(path, 'utf8')).toBe(whole + next)
    }
  })

  it('is refused, and stays as it is, where it is something else', async () => {
    const path = join(await temporaryDirectory(), 'notes.txt')
    for (const text of ['Dear', 'Dear diary\n', '{"text":"x"}\n', '{"line":1}\n{"lin']) {
      await writeFile(path, text)
      if (text.endsWith('{"lin')) await appendFile(path, 'k')
      const before = await readFile(path, 'utf8')
      await expect(AnswersFile.open(path)).rejects.toThrow('holds something other than answers')
      expect(await readFile(path, 'utf8')).toBe(before)
    }
  })

  it('reads files of many pieces', async () => {
    const path = join(await temporaryDirectory(), 'answers.jsonl')
    const lines = Array.from({ length: 2000 }, (_, i) => `${JSON.stringify({ line: i + 1, text: 'x'.repeat(i % 200) })}\n`)
    await writeFile(path, lines.join(''))
    const answers = await AnswersFile.open(path)
    expect([answers.size, answers.has(2000)]).toEqual([2000, true])
    await answers.close()
    expect(await readFile(path, 'utf8')).toBe(lines.join(''))
  })
})
