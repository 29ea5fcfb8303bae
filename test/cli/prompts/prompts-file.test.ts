import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readPrompts } from '../../../src/cli/prompts/prompts-file.ts'
import { UsageError } from '../../../src/errors.ts'
import { temporaryDirectory } from '../../node/fixture.ts'

const never = new AbortController().signal

async function read (text: string): Promise<object[]> {
  const path = join(await temporaryDirectory(), 'prompts.jsonl')
  await writeFile(path, text)
  return await Array.fromAsync(readPrompts(path, never))
}

describe('a file of prompts', () => {
  it('has a prompt, messages or ids on each line, and other columns that are left alone', async () => {
    const messages = [{ role: 'user', content: 'Hello' }]
    expect(await read(`{"prompt":"a","id":7}\n\n${JSON.stringify({ messages })}\r\n{"ids":[1,2]}`)).toEqual([
      { line: 1, input: { prompt: 'a' } }, { line: 3, input: { messages } }, { line: 4, input: { ids: [1, 2] } }
    ])
  })

  it.each([
    ['{"prompt":"a"}\nno', 'line 2 is not JSON'],
    ['{"prompt":1}', 'line 1: prompt:'],
    ['{"text":"a"}', 'line 1 has not one of'],
    ['{"prompt":"a","ids":[1]}', 'line 1 has not one of'],
    ['[]', 'line 1: '],
    ['{"messages":[{"role":"user"}]}', 'line 1: messages.0.content']
  ])('%j is refused, and the line is named', async (text, message) => {
    await expect(read(text)).rejects.toThrow(message)
  })

  it('of any other content is refused in words for people', async () => {
    await fc.assert(fc.asyncProperty(fc.oneof(fc.string(), fc.json()), async (text) => {
      await read(text).catch((error: unknown) => { expect(error).toBeInstanceOf(UsageError) })
    }), { numRuns: 50 })
  })
})
