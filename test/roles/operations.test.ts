import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { EventOf, OperationName, ResultOf } from '../../src/api/operations.ts'
import { run } from '../cli/helpers.ts'
import { TINY_CONFIG, writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation, type TestFederation, type TestPeer } from './helpers.ts'

const CONTEXT = TINY_CONFIG.max_position_embeddings

/** The control server lets no event out that its schema does not know: each operation that ends here has passed. */
describe('the operations of a federation', { timeout: 120_000 }, () => {
  let federation: TestFederation
  let model: string
  let data: string
  const client = (): TestPeer => federation.clients[0]!.peer
  const ask = async <Name extends OperationName>(name: Name, parameters: object = {}, peer = client()): Promise<ResultOf<Name>> =>
    await peer.ask<ResultOf<Name>>(name, parameters)
  const events = async <Name extends OperationName>(name: Name, parameters: object): Promise<Array<EventOf<Name>>> =>
    await Array.fromAsync(client().events(name, parameters)) as Array<EventOf<Name>>

  beforeAll(async () => {
    model = await mkdtemp(join(tmpdir(), 'midspan-operations-'))
    await writeTinyModel(model)
    federation = await startFederation({ model, charter: { loraTargets: ['q', 'v'], loraR: 2 }, clients: [{}] })
    data = federation.path('data.jsonl')
    await writeTinyData(data, 1)
  }, 120_000)
  afterAll(async () => {
    await federation.stop()
    await rm(model, { recursive: true })
  })

  it('train in rounds whose speed counts all tokens and those of the loss', async () => {
    const file = federation.path('pairs.jsonl')
    await writeFile(
      file,
      Array.from({ length: 8 }, () => `${JSON.stringify({ prompt: 'the river carries', completion: ' a' })}\n`).join('')
    )
    const all = await events('train', { data: file, rounds: 2, sequences: 2, packing: 'padded' })
    expect(all[0]).toMatchObject({ type: 'start', done: 0, rounds: 2, records: 8, skippedLines: [] })
    const rounds = all.filter((event) => event.type === 'round')
    expect(rounds).toHaveLength(2)
    for (const round of rounds) {
      expect(round.inputTokens).toBeGreaterThan(3 * round.tokens)
      expect(round.inputTokensPerSecond / round.tokensPerSecond).toBeCloseTo(round.inputTokens / round.tokens, 5)
    }
    expect(all.at(-1)).toMatchObject({ type: 'done', rounds: 2, loss: rounds[1]!.loss })
    expect((await events('train', { data: file, rounds: 2, sequences: 2, packing: 'padded' })).at(-1)).toMatchObject({ loss: null })
  })

  it.each(['packed', 'padded'])('show what would be learnt of the first records, %s, and train nothing', async (packing) => {
    const file = federation.path('shown.jsonl')
    const pair = JSON.stringify({ prompt: 'the river carries', completion: ' a' })
    await writeFile(file, `not JSON\n${pair}\n${pair}\n${pair}\nnot JSON either\n`)
    const before = await ask('status')
    const show = ['train', '--home', client().home, '--data', file, '--packing', packing, '--show-data', '2']
    const { code, out, err } = await run(show)
    expect(code).toBe(0)
    expect(out.match(/^line \d+: .*/gm)).toEqual(['line 2: 21 tokens, 3 counted', 'line 3: 21 tokens, 3 counted'])
    expect(out).toMatch(/ s⟦ {2}│ a│ <\/s>⟧$/m)
    expect(err).toContain('line 1 is not valid JSON\n')
    const json = (await run([...show, '--json'])).out.trimEnd().split('\n').map((line) => JSON.parse(line) as EventOf<'preview'>)
    expect(json.map(({ type }) => type)).toEqual(['record', 'record', 'done'])
    expect(json[2]).toMatchObject({ packing, skipped: 1, skippedLines: [{ line: 1 }] })
    expect((await ask('status')).training).toEqual(before.training)
  })

  it('show the words that rules withhold, and tell in one line what is no rule', async () => {
    const list = federation.path('people.txt')
    // To this tokenizer each letter is a word.
    await writeFile(list, 'y\n')
    const file = federation.path('withheld.jsonl')
    await writeFile(file, '{"text":"a lily by a lake"}\n{"text":"a lake"}\n')
    const command = ['data', '--home', client().home, '--data', file, '--records', '1', '--show-withheld']
    const { out, err } = await run([...command, list])
    expect(out.match(/⟪[^⟫]*⟫/g)).toEqual(['⟪ y⟫', '⟪ y⟫'])
    expect(err).toMatch(/^The rules withhold what stands between ⟪ and ⟫: \d+ of the data's \d+ tokens, \d+/m)
    for (const rule of ['persons', 'numbers']) {
      const failed = await run([...command, rule])
      expect([failed.code, failed.err.trim().split('\n').length]).toEqual([expect.any(Number), 1])
    }
  })

  it.each([1, 2, 3])('evaluate no more sequences than the limit of %i', async (limit) => {
    const result = await ask('evaluate', { data, maxTokens: 16, sequences: 2, limit })
    expect(result.sequences).toBe(limit)
  })

  it('evaluate a part as they evaluate the whole of it', async () => {
    const whole = await ask('evaluate', { data, maxTokens: 16, sequences: 1, limit: 3 })
    const part = await ask('evaluate', { data, maxTokens: 16, sequences: 4, limit: 3 })
    expect(part.tokens).toBe(whole.tokens)
    expect(part.loss! / whole.loss!).toBeCloseTo(1, 5)
  })

  it('name the lines that an evaluation leaves out', async () => {
    const file = federation.path('broken.jsonl')
    await writeFile(file, `${await readFile(data, 'utf8')}not JSON\n`)
    const { err } = await run(['evaluate', '--home', client().home, '--data', file, '--limit', '1'])
    expect(err).toMatch(/^1 of \d+ records \([^)]+%\) cannot be used:\n {2}line \d+: [^\n]+\n$/)
    const result = await ask('evaluate', { data: [data, file], limit: 1 })
    expect(result).toMatchObject({ skipped: 1, skippedLines: [{ file }] })
    expect(result.recordsRead).toBeGreaterThan(2)
  })

  it('generate from the begin token where the prompt is empty', async () => {
    const { ids } = await ask('generate', { ids: [TINY_CONFIG.bos_token_id], maxTokens: 4 })
    const { promptTokens, ids: fromNothing } = await ask('generate', { prompt: '', maxTokens: 4 })
    expect([promptTokens, fromNothing]).toEqual([1, ids])
    expect(await run(['generate', '--home', client().home, '--prompt', '', '--max-tokens', '4'])).toMatchObject({ code: 0, err: '' })
  })

  it('say that the context ended a generation, and not the limit', async () => {
    const within = await ask('generate', { ids: [5, 6], maxTokens: CONTEXT - 2 })
    expect(within).toMatchObject({ reason: 'length', tokens: CONTEXT - 2 })
    const beyond = await ask('generate', { ids: [5, 6], maxTokens: 1000 })
    expect(beyond).toMatchObject({ reason: 'context', tokens: CONTEXT - 2 })
    const { err } = await run(['generate', '--home', client().home, '--ids', '5,6', '--max-tokens', '1000'])
    expect(err).toMatch(/^Ended after 62 tokens of the 1000 that --max-tokens allows: [^\n]+ 64 tokens[^\n]+\n$/)
  })

  it('export an adapter that names no model of a stranger, and replace it only when they are told to', async () => {
    const out = federation.path('adapter')
    const baseModel = async (): Promise<unknown> =>
      (JSON.parse(await readFile(`${out}/adapter_config.json`, 'utf8')) as Record<string, unknown>).base_model_name_or_path
    const home = client().home
    expect(await run(['export', '--home', home, '--out', out])).toMatchObject({
      code: 0,
      err: 'The adapter names no base model, since none is known here: name it with --base-model\n'
    })
    expect(await baseModel()).toBeNull()
    expect(await run(['export', '--home', home, '--out', out])).toMatchObject({
      code: 2,
      err: expect.stringContaining('is there already (choose another directory, or replace it with --force)') as string
    })
    expect(await run(['export', '--home', home, '--out', out, '--force', '--base-model', 'org/tiny'])).toMatchObject({ code: 0, err: '' })
    expect(await baseModel()).toBe('org/tiny')
    expect(await ask('export', { out, force: true }, federation.server)).toMatchObject({
      baseModel: expect.stringMatching(/^\//) as string
    })
  })

  it('tell what peers are and do, to people without JSON', async () => {
    for (const peer of [client(), federation.server]) {
      const { code, out } = await run(['status', '--home', peer.home])
      expect(code).toBe(0)
      expect(out).toMatch(/^training +.*the federation is at round \d+/m)
      expect(out).not.toMatch(/[{["]/)
    }
    expect((await ask('peers')).peers).toHaveLength(1)
    expect(await ask('invite', { role: 'client', expiresMs: 1000, uses: 1 }, federation.server)).toMatchObject({ uses: 1 })
  })

  it('refuse parameters by the name of their field', async () => {
    await expect(ask('train', { data, rounds: 'many' })).rejects.toMatchObject({
      code: 'E_USAGE',
      message: expect.stringMatching(/^train: rounds: /) as string
    })
  })

  it('give up by the timeout where the server is gone, and end when it is back', async () => {
    await federation.server.stop()
    let stopped = true
    onTestFinished(async () => {
      if (stopped) await federation.server.start()
    })
    for (
      const [name, ...args] of [['evaluate', '--data', data], ['generate', '--prompt', 'a'], ['export', '--out', federation.path('gone')]]
    )
      expect(await run([name!, ...args, '--home', client().home, '--timeout', '300ms'])).toMatchObject({
        code: 5,
        out: '',
        err: expect.stringMatching(/^(Waiting: [^\n]+\n)*midspan: gave up after 0\.3 s: no server is connected[^\n]*\([^\n]+--timeout[^\n]+\)\n$/) as string
      })
    const waiting = ask('generate', { prompt: 'a', maxTokens: 2 })
    await federation.server.start()
    stopped = false
    expect(await waiting).toMatchObject({ tokens: 2 })
  })
})
