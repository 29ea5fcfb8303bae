import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MAX_AUDIT_ROUNDS, MAX_AUDIT_TOKENS } from '../../src/api/audit.ts'
import type { EventOf, ResultOf } from '../../src/api/operations.ts'
import { run } from '../cli/helpers.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation, type TestClient, type TestFederation } from './helpers.ts'
import { Tap } from './tap.ts'

describe('the audit of a client', { timeout: 120_000 }, () => {
  const tap = new Tap()
  let federation: TestFederation
  let client: TestClient
  let model: string
  let data: string

  beforeAll(async () => {
    model = await mkdtemp(join(tmpdir(), 'midspan-audit-'))
    await writeTinyModel(model)
    // Letters that follow one another are a word.
    const tokenizer = join(model, 'tokenizer.json')
    await writeFile(tokenizer, JSON.stringify({ ...JSON.parse(await readFile(tokenizer, 'utf8')) as object, decoder: { type: 'Fuse' } }))
    federation = await startFederation({
      model, charter: { loraTargets: ['q', 'v'], loraR: 2, noise: 0.4, clip: 3, wire: 'fp16' }, clients: []
    })
    client = await federation.join('client', { inputBlocks: 2, noise: 0.5 }, tap.roles)
    data = federation.path('data.jsonl')
    await writeTinyData(data, 1, 16)
    await writeTinyData(federation.path('public.jsonl'), 4, 3)
    await writeFile(federation.path('words.txt'), '/.*e.*/\n')
  }, 120_000)
  afterAll(async () => {
    await federation.stop()
    await rm(model, { recursive: true })
  })

  it('attacks text, tries trainings and writes a report, and opens no stream', async () => {
    const before = tap.streams.length
    const events = await Array.fromAsync(
      client.peer.events('audit', { data, tokens: 80, rounds: 2, sequences: 2, model, gradientNoise: 0 })
    ) as Array<EventOf<'audit'>>
    expect(tap.streams.length).toBe(before)
    expect(events[0]).toMatchObject({ type: 'start', tokens: 80 })
    const works = new Set(events.flatMap((event) => event.type === 'progress' ? [event.work] : []))
    expect([...works]).toEqual([
      'attacking hidden states', 'attacking gradients', 'training of this client alone', 'training without protection', 'training as the settings are'
    ])
    const result = events.at(-1) as ResultOf<'audit'>
    expect(result).toMatchObject({
      type: 'result',
      settings: { inputBlocks: 2, hiddenSize: 16, hidden: { clip: 3, noise: 0.5 }, wire: 'fp16' },
      tokens: 80,
      prior: { kind: 'ngram' }
    })
    expect(result.attacks[0]!.curve[0]).toMatchObject({ noise: 0, alone: { value: 1 } })
    const { losses } = result
    for (const loss of [losses?.alone, losses?.before, losses?.unprotected, losses?.deployed]) expect(loss).toBeGreaterThan(1)
    expect(result.attacks.map(({ name }) => name)).toEqual(['oracle', 'gradients'])
    for (const { checks } of [result]) expect(checks.length).toBeGreaterThanOrEqual(7)
    expect(result.notices.join('\n')).toContain('only 80 tokens are attacked, fewer than 200')
  })

  it('guesses withheld words from those that are sent, and tries a training that withholds them', async () => {
    const events = await Array.fromAsync(client.peer.events('audit', {
      data, tokens: 120, rounds: 2, sequences: 2, model, gradientNoise: 0, noise: 0.4,
      withhold: federation.path('words.txt'), prior: federation.path('public.jsonl')
    })) as Array<EventOf<'audit'>>
    const result = events.at(-1) as ResultOf<'audit'>
    const { withheld, tokens, losses, verdict, meaning } = result
    expect(withheld!.tokens).toBeGreaterThan(20)
    // The first token that is sent of a sequence is attacked in neither.
    expect(withheld!.tokens + tokens).toBe(120)
    expect(withheld!.share).toBeCloseTo(withheld!.tokens / 120, 10)
    for (const figure of [withheld!.guessed, withheld!.before, withheld!.recovered]) expect(figure.value).toBeLessThan(1)
    expect(withheld!.whole.leak.value).toBeLessThan(result.attacks[0]!.deployed.leak.value)
    expect(losses!.deployed).toBeGreaterThan(1)
    expect(losses!.deployed).not.toBe(losses!.unprotected)
    expect(verdict).not.toBe('little')
    expect(meaning).toContain(`The ${withheld!.tokens} withheld tokens`)
    expect(result.checks.at(-1)).toMatchObject({ attack: 'infill', found: expect.stringMatching(/^in \d+$/) as string })
  })

  it('tries settings that the charter allows, and writes what they cost and tell', async () => {
    const out = federation.path('sweep')
    const { code, out: text } = await run([
      'audit', '--home', client.home, '--data', data, '--prior', federation.path('public.jsonl'), '--model', model, '--tokens', '20', '--rounds', '1',
      '--sequences', '2', '--sweep', 'withhold', '--noise', '0.4', '--withhold', federation.path('words.txt'), '--max-leak', '0', '--out', out
    ])
    expect(code).toBe(0)
    expect(text).toMatch(/^ +BLOCKS HERE +NOISE +WITHHELD +OF TOKENS +LOSS +LEAK +RECOVERED/m)
    expect(text).toContain('None of the settings lets at most 0.0 % leak.')
    const report = JSON.parse(await readFile(join(out, 'audit.json'), 'utf8')) as ResultOf<'auditSweep'>
    const [least, ...more] = report.points
    expect(least).toMatchObject({ inputBlocks: 2, outputBlocks: 1, noise: 0.4, isOnFrontier: true })
    for (const point of report.points) expect(point.withhold).toContain('words.txt')
    // Every word of so little text is more than one in a hundred.
    expect(more.length + 1 + report.leftOut.length).toBe(6)
    expect(report.alone).toBeGreaterThan(1)
    const page = await readFile(join(out, 'audit.html'), 'utf8')
    expect(page).toContain('<circle')
    expect(page.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|<script|src=|@import|url\(/)
  })

  it('tries one setting whatever the time, and says which it left out', async () => {
    const events = await Array.fromAsync(client.peer.events('auditSweep', {
      data, tokens: 20, rounds: 1, sequences: 2, model, prior: federation.path('public.jsonl'), axes: ['noise'], budgetMs: 1
    })) as Array<EventOf<'auditSweep'>>
    const { points, leftOut, recommended, notices } = events.at(-1) as ResultOf<'auditSweep'>
    expect([points.length, recommended]).toEqual([1, null])
    expect(leftOut.length).toBeGreaterThan(1)
    for (const { reason } of leftOut) expect(reason).toBe('the budget of time was used up')
    expect(notices.join()).toContain("less noise than the charter's floor")
  })

  it('is printed as tables, and written as JSON and as a page that loads nothing', async () => {
    const out = federation.path('report')
    const { code, out: text, err } = await run([
      'audit', '--home', client.home, '--data', data, '--tokens', '60', '--rounds', '0', '--out', out
    ])
    expect([code, err]).toEqual([0, expect.stringContaining('Attacking 60 tokens of 16 records')])
    expect(text).toMatch(/^ATTACK +RECOVERED +WITH THE PRIOR +OF HARD TOKENS +LEAK$/m)
    expect(text).toMatch(/^oracle, noise 0\.5 \(as the settings are\) /m)
    expect(text).not.toContain('private')
    const report = JSON.parse(await readFile(join(out, 'audit.json'), 'utf8')) as ResultOf<'audit'>
    expect(report.tokens).toBe(60)
    const page = await readFile(join(out, 'audit.html'), 'utf8')
    expect(page).toContain('<svg')
    expect(page.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|<script|src=|@import|url\(/)
    expect((await stat(join(out, 'audit.html'))).mode & 0o777).toBe(0o600)
  })

  it.each([
    ['noise below the floor', ['--noise', '0.1'], 4, /noise/],
    ['a prior with another vocabulary', ['--prior', 'OTHER'], 2, /another tokenizer|tokens, and the model/],
    ['a sweep without the whole model', ['--sweep', 'noise', '--rounds', '1'], 2, /takes the whole model/],
    ['a sweep over what is no setting', ['--sweep', 'noise,colour'], 2, /--sweep/],
    ['a largest leak without a sweep', ['--max-leak', '0.5'], 2, /--max-leak is for a sweep/],
    ['rules that mark nothing', ['--withhold', 'numbers'], 2, /nothing in the data is withheld/],
    ['rules that mark everything', ['--withhold', 'rare:100%'], 2, /every word of the data is withheld/],
    ['a prior that is not there', ['--prior', '/nowhere'], 2, /nowhere/],
    ['more tokens than an audit has', ['--tokens', String(MAX_AUDIT_TOKENS + 1)], 2, /--tokens/],
    ['more rounds than an audit has', ['--rounds', String(MAX_AUDIT_ROUNDS + 1)], 2, /--rounds/]
  ])('refuses %s in one line', async (_, args, code, message) => {
    const other = federation.path('other')
    await writeTinyModel(other, { vocab_size: 40 })
    const given = args.map((arg) => arg === 'OTHER' ? other : arg)
    const refused = await run(['audit', '--home', client.home, '--data', data, '--tokens', '10', '--rounds', '0', ...given])
    expect([refused.code, refused.out]).toEqual([code, ''])
    expect(refused.err.trimEnd().split('\n').at(-1)).toMatch(message)
  })

  it('refuses a prior that knows the text by heart', async () => {
    const text = federation.path('repeated.jsonl')
    await writeFile(text, `${JSON.stringify({ text: 'abcdefghijklmnopqrstuvwxyz'.repeat(4) })}\n`)
    const refused = await run([
      'audit', '--home', client.home, '--data', text, '--prior', text, '--tokens', '60', '--rounds', '0'
    ])
    expect([refused.code, refused.err]).toEqual([2, expect.stringContaining('it has read it')])
  })
})
