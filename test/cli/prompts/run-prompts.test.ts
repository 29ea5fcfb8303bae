import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelDirectory } from '../../../src/cli/demo/federation.ts'
import { startFederation, type GenerationResult, type TestFederation } from '../../roles/helpers.ts'
import { run } from '../helpers.ts'

const PROMPTS = [
  { prompt: 'On Monday' }, { prompt: 'On Monday '.repeat(300) }, { ids: [1, 20, 30] }, { prompt: 'The smith' }, { prompt: 'On Friday', name: 'last' }
]

interface Answered {
  readonly line: number
  readonly text?: string
  readonly error?: { readonly code: string }
}

describe('midspan generate with a file of prompts', { timeout: 60_000 }, () => {
  let federation: TestFederation
  const answered = async (path: string): Promise<Answered[]> =>
    (await readFile(path, 'utf8')).trim().split('\n').map((line) => JSON.parse(line) as Answered).sort((a, b) => a.line - b.line)
  const generate = async (...args: string[]): ReturnType<typeof run> => await run(
    ['generate', '--home', federation.clients[0]!.home, '--prompts', federation.path('prompts.jsonl'), '--max-tokens', '8', ...args]
  )

  beforeAll(async () => {
    federation = await startFederation({ model: modelDirectory, clients: [{}] })
    await writeFile(federation.path('prompts.jsonl'), PROMPTS.map((prompt) => JSON.stringify(prompt)).join('\n'))
  }, 60_000)
  afterAll(async () => { await federation.stop() })

  it('answers each as it answers it alone, also in two runs, and tells which cannot be answered', async () => {
    const path = federation.path('answers.jsonl')
    const { code, err, out } = await generate('--answers', path, '--temperature', '1', '--seed', '5')
    expect([code, out, err]).toEqual([0, '', expect.stringMatching(/(?:^|\n)5 prompts answered, of which 1 cannot be; \d+ tokens in this run\n$/)])
    const answers = await answered(path)
    expect(answers.map(({ line, error }) => error?.code ?? line)).toEqual([1, 'E_CONTEXT_LENGTH', 3, 4, 5])
    const alone = await federation.clients[0]!.generate({ prompt: 'The smith', maxTokens: 8, temperature: 1, seed: 8 }) satisfies GenerationResult
    expect(answers[3]!.text).toBe(alone.text)

    const cut = federation.path('cut.jsonl')
    const lines = (await readFile(path, 'utf8')).split('\n')
    await writeFile(cut, `${lines.slice(0, 2).join('\n')}\n${lines[2]!.slice(0, 12)}`)
    const again = await generate('--answers', cut, '--temperature', '1', '--seed', '5')
    expect([again.code, again.err]).toEqual([0, expect.stringMatching(/^Going on after 2 answers in .*\n[^]*^5 prompts answered/m)])
    expect(await answered(cut)).toEqual(answers)
  })

  it('needs a file for the answers, and refuses one that has something else', async () => {
    expect((await generate()).err).toContain('--prompts needs --answers')
    const other = federation.path('prompts.jsonl')
    expect(await generate('--answers', other)).toMatchObject({ code: 2, err: expect.stringContaining('something other than answers') as string })
    expect((await run(['generate', '--prompt', 'x', '--answers', other])).err).toContain('--answers is for --prompts')
  })

  it('asks nothing where a line is none', async () => {
    const prompts = join(federation.root, 'broken.jsonl')
    await writeFile(prompts, '{"prompt":"On Monday"}\n{"prompt":')
    const { code, err } = await run(
      ['generate', '--home', federation.clients[0]!.home, '--prompts', prompts, '--answers', federation.path('none.jsonl')]
    )
    expect([code, err]).toEqual([2, expect.stringContaining('line 2 is not JSON')])
    expect(await readFile(federation.path('none.jsonl'), 'utf8')).toBe('')
  })
})
