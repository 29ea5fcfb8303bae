import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { EventOf, Operation, OperationName, ParametersOf, ResultOf } from '../../src/api/operations.ts'
import type { PeerLine } from '../../src/api/peers.ts'
import { askDaemon } from '../../src/cli/daemon-client.ts'
import { MidspanError } from '../../src/errors.ts'
import { startControlServer, type ControlServer } from '../../src/node/control/server.ts'
import { homeAt } from '../../src/node/home/home.ts'
import type { Logger } from '../../src/roles/context.ts'
import { run } from './helpers.ts'
import { midspan, MidspanProcess } from './process.ts'

const silent: Logger = { debug () {}, info () {}, warn () {}, error () {} }
const allUsed = { recordsRead: 12, skipped: 0, skippedLines: [], noticed: 0, notices: [] }
const traffic = { sentBytes: 2048, receivedBytes: 1024 }
const compared = { server: '12D3KooWFirst', blocks: { first: 1, end: 3 }, tokens: 6, distance: 0.2, greatest: 2 }
const generated: ResultOf<'generate'> = {
  type: 'done',
  text: 'there was a cat',
  ids: [1, 2, 3],
  reason: 'length',
  promptTokens: 4,
  tokens: 3,
  prefillSeconds: 0.5,
  decodeSeconds: 1,
  tokensPerSecond: 3,
  roundTrips: 2,
  releasedStates: 6,
  reusedTokens: 1,
  draftedTokens: 2,
  acceptedTokens: 1,
  ...traffic,
  route: [
    { server: '12D3KooWFirst', blocks: { first: 1, end: 3 }, tokens: 6, replayedTokens: 0, meanMs: 12.34, share: 0.25, handsOver: true },
    { server: '12D3KooWSecond', blocks: { first: 3, end: 4 }, tokens: 12, replayedTokens: 6, meanMs: 40, share: 0.5, handsOver: false }
  ],
  networkShare: 0.125,
  checks: [
    { ...compared, verdict: 'agrees', by: ['12D3KooWOther'], wrong: null, distance: 0.000012, reason: null },
    { ...compared, verdict: 'wrong', by: ['12D3KooWOther', '12D3KooWThird'], wrong: '12D3KooWFirst', reason: null },
    { ...compared, verdict: 'differs', by: ['12D3KooWOther'], wrong: null, reason: 'nobody else serves blocks 1-3' },
    { ...compared, verdict: 'unchecked', by: [], wrong: null, tokens: 0, distance: null, greatest: null, reason: 'nobody else serves blocks 1-3' }
  ]
}
const distribution = { count: 300, mean: 40, p50: 12.34, p90: 20, p99: 98.76, max: 120 }
const status: ResultOf<'status'> = {
  agent: 'midspan/0.1.0',
  peerId: '12D3KooWExample',
  role: 'client',
  home: '/home',
  federation: { id: 'ab12', name: 'stories' },
  addresses: ['/ip4/127.0.0.1/tcp/1'],
  listening: ['/ip4/127.0.0.1/tcp/1'],
  device: 'cpu',
  deviceReason: 'as set',
  blocks: null,
  partition: { inputBlocks: 1, outputBlocks: 2 },
  coordinator: '12D3KooWServer',
  connected: true,
  disconnectedReason: null,
  members: null,
  training: null,
  generation: {
    sequences: 2,
    cacheBytes: 3 * 2 ** 20,
    cacheLimitBytes: 2 ** 30,
    evictions: 1,
    serving: {
      tokens: 12_000,
      runTokens: distribution,
      runSequences: { ...distribution, mean: 7.5 },
      runMs: distribution,
      queueMs: distribution,
      firstTokenMs: { ...distribution, count: 0 },
      betweenTokensMs: distribution,
      clients: [{ peer: '12D3KooWGreedy', tokens: 9000, weight: 3 }, { peer: '12D3KooWModest', tokens: 3000, weight: 1 }]
    },
    memory: { processBytes: 2 ** 30, deviceBytes: 2 ** 29, cacheBytes: 2 ** 20 }
  },
  route: { legs: [{ server: '12D3KooWServer', blocks: { first: 1, end: 3 }, roundTripMs: 12.34 }], missing: [{ first: 3, end: 4 }] },
  verification: {
    share: 0.01,
    checked: 12,
    tokens: 480,
    differing: 1,
    unchecked: 3,
    caught: [{ server: '12D3KooWLiar', blocks: { first: 1, end: 3 }, at: '2026-01-01T00:00:00.000Z', tokens: 40, distance: 0.2 }]
  },
  since: '2026-01-01T00:00:00.000Z'
}
const peer: PeerLine = {
  peerId: '12D3KooWServer',
  role: 'server',
  agent: 'midspan/0.1.0',
  blocks: { first: 1, end: 4 },
  roundTripMs: 1.234,
  path: 'direct',
  sessions: 1,
  since: '2026-01-01T00:00:00.000Z',
  address: '/ip4/127.0.0.1/tcp/2'
}

const servers: ResultOf<'servers'> = {
  servers: [{
    peerId: '12D3KooWServer',
    isSelf: false,
    isCoordinator: true,
    connected: true,
    blocks: { first: 1, end: 3 },
    roundTripMs: 1.234,
    load: { sessions: 2, queuedTokens: 1, freeCacheBytes: 2 ** 20, prefillTokensPerSecond: 800, decodeTokensPerSecond: 0 },
    placement: null,
    agent: 'midspan/0.1.0',
    addresses: ['/ip4/127.0.0.1/tcp/2']
  }, {
    peerId: '12D3KooWOther',
    isSelf: false,
    isCoordinator: false,
    connected: false,
    blocks: null,
    roundTripMs: null,
    load: null,
    placement: { isDraining: false, reason: 'moves from 1-3 to 3-4: nobody served the blocks 3-4 for 61 s' },
    agent: null,
    addresses: []
  }],
  middle: { first: 1, end: 4 },
  coverage: [{ blocks: { first: 1, end: 3 }, servers: 1 }, { blocks: { first: 3, end: 4 }, servers: 0 }],
  missing: [{ first: 3, end: 4 }]
}

const row = { unit: 'one row', mu: 21.33, epsilon: 314.2, rowsWithoutNoise: 0 }
const bare = { unit: 'one text', mu: null, epsilon: null, rowsWithoutNoise: 7 }

const released: ResultOf<'privacy'> = {
  hidden: 64,
  delta: 1e-5,
  protection: { hidden: { clip: 3, noise: 0.75 }, gradient: { clip: null, noise: 0 }, keepsStream: true },
  releases: [
    { purpose: 'train', kind: 'hidden', clip: 3, noise: 0.75, releases: 2, sequences: 8, rows: 256, row },
    { purpose: 'generate', kind: 'hidden', clip: null, noise: 0, releases: 7, sequences: 7, rows: 7, row: { ...bare, rowsWithoutNoise: 1 } }
  ],
  purposes: [
    { purpose: 'train', works: 2, worst: { ...row, unit: 'one record of one run' }, everywhere: { ...row, unit: 'one record of every run' } },
    { purpose: 'generate', works: 1, worst: bare, everywhere: bare }
  ],
  total: { ...bare, unit: 'everything' },
  lostEntries: 1,
  notCovered: ['the exported adapter']
}

const repartitioned: ResultOf<'partition'> = {
  type: 'done',
  before: { inputBlocks: 1, outputBlocks: 2 },
  partition: { inputBlocks: 3, outputBlocks: 2 },
  blocks: 8,
  tensors: 47,
  tensorBytes: 2048,
  fetchedBytes: 1024,
  noiseCost: 'Noise 0.1 on hidden states: the model stays useful',
  note: "the blocks that came go on from the middle's adapters"
}

let root: string
let server: ControlServer
/** The parameters that came, by operation. */
const asked = new Map<string, unknown>()
let hungUp: Promise<unknown>

function answering<Name extends OperationName> (name: Name, ...events: Array<EventOf<Name>>): Operation<Name> {
  return async function * (parameters) {
    asked.set(name, parameters)
    yield * events
  }
}

/** Has nothing to do for one round, and trains for more until it is stopped. */
async function * trainUntilStopped (parameters: ParametersOf<'train'>, signal: AbortSignal): AsyncGenerator<EventOf<'train'>> {
  asked.set('train', parameters)
  if (parameters.rounds === 1) {
    yield { type: 'done', rounds: 1, loss: null, seconds: 0, ...traffic }
    return
  }
  const found = { ...allUsed, recordsRead: 13, skipped: 1, skippedLines: [{ line: 3, reason: 'is not JSON' }] }
  yield { type: 'start', round: 0, done: 0, rounds: 100, records: 12, ...found }
  yield {
    type: 'round',
    round: 1,
    done: 1,
    rounds: 100,
    loss: 4.5,
    tokens: 100,
    tokensPerSecond: 1000,
    inputTokens: 200,
    inputTokensPerSecond: 2000,
    clippedFraction: 0,
    leftOut: false,
    members: 1,
    ...traffic
  }
  hungUp = once(signal, 'abort')
  await hungUp
}

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-cli-'))
  server = await startControlServer(homeAt(root), {
    status: answering('status', status),
    peers: answering('peers', { peers: [peer] }),
    servers: answering('servers', servers),
    privacy: answering('privacy', released),
    auditSweep: answering('auditSweep'),
    invite: answering('invite', {
      invite: 'midspan-invite-line',
      role: 'client',
      expires: '2026-01-01T00:00:00.000Z',
      uses: 3,
      weight: 1,
      id: 'ab'.repeat(16),
      addresses: [],
      warning: null
    }),
    partition: answering('partition', { type: 'waiting', reason: 'the round ends first' }, repartitioned),
    train: trainUntilStopped,
    evaluate: answering('evaluate', { type: 'progress', sequences: 1, tokens: 10 }, {
      type: 'result',
      loss: 1.5,
      perplexity: 4.48,
      tokens: 100,
      sequences: 5,
      seconds: 2,
      ...allUsed,
      ...traffic
    }),
    generate: answering('generate', { type: 'text', text: 'there was ' }, { type: 'text', text: 'a cat' }, generated),
    async *export () {
      throw new MidspanError('E_DATASET', 'nothing was trained yet', { next: 'train first' })
    }
  }, silent)
})

afterAll(async () => {
  await server.stop()
  await rm(root, { recursive: true })
})

describe('commands that talk to the daemon', () => {
  it.each([['status'], ['peers'], ['invite'], ['export', '--out', 'x'], ['train', '--data', 'x'], ['generate', '--prompt', 'x'], [
    'evaluate',
    '--data',
    'x'
  ], ['leave']])('say how to start one where there is none: %s', async (...args) => {
    const home = join(root, 'absent')
    const { code, out, err } = await run([...args, '--home', home])
    expect(err).toBe(`midspan: no daemon runs in ${home} (start it with: midspan daemon --home ${home})\n`)
    expect([code, out]).toEqual([3, ''])
  })

  it('give up on a daemon that answers nothing', async () => {
    const home = join(root, 'silent')
    const silentServer = await startControlServer(homeAt(home), {
      async *status (_, signal) {
        await once(signal, 'abort')
        yield status
      }
    }, silent)
    onTestFinished(async () => { await silentServer.stop() })
    const asking = askDaemon(home, 'status', {}, new AbortController().signal, undefined, 50)
    await expect(asking).rejects.toMatchObject({ code: 'E_DAEMON_SILENT', next: expect.stringContaining(homeAt(home).log) as string })
  })

  it('find the home in MIDSPAN_HOME', async () => {
    const { code, out } = await midspan(['status', '--json'], { MIDSPAN_HOME: root })
    expect(code).toBe(0)
    expect(JSON.parse(out)).toEqual(status)
  })

  it('show the status to people', async () => {
    const { out } = await run(['status', '--home', root])
    expect(out).toContain('federation  stories (ab12)\n')
    expect(out).toContain('holds       the first block and the last 2 blocks\n')
    expect(out).toContain('generation  2 sequences, 3.0 MiB of 1.0 GiB cache, 1 idle cache given up for others\n')
    expect(out).toContain('served      12000 tokens in 300 runs: 40 of 7.5 sequences each\n')
    expect(out).toContain('times       waiting 12.3 ms, in the worst hundredth 98.8 ms\n')
    expect(out).not.toContain('first token')
    expect(out).toContain('share       75% 12D3KooWGreedy, of weight 3\nshare       25% 12D3KooWModest\n')
    expect(out).toContain('memory      1.0 GiB, of it 512.0 MiB on the device, 1.0 MiB of that in caches\n')
    expect(out).toContain('checks      1% of texts; 12 stages checked, 480 tokens; 1 undecided; 3 that nobody could check\n')
    expect(out).toContain('left out    12D3KooWLiar computed blocks 1-3 wrong (2026-01-01T00:00:00.000Z)\n')
    expect(out).toContain('route       blocks 1-3 at 12D3KooWServer (12.3 ms), nobody serves blocks 3-4 now\n')
  })

  it('show peers as a table, or as JSON', async () => {
    const { out } = await run(['peers', '--home', root])
    const [head, row] = out.split('\n')
    expect(head).toMatch(/^PEER +ROLE +BLOCKS +ROUND TRIP +PATH +SESSIONS +SINCE +ADDRESS$/)
    expect(row).toMatch(/^12D3KooWServer +server +1-4 +1\.23 ms +direct +1 +2026-01-01T00:00:00\.000Z +\/ip4/)
    expect(JSON.parse((await run(['peers', '--home', root, '--json'])).out)).toEqual({ peers: [peer] })
  })

  it('show who serves which blocks, and which blocks nobody serves', async () => {
    const { out } = await run(['servers', '--home', root])
    const [head, first, second, reason, ...coverage] = out.trim().split('\n')
    expect(head).toMatch(/^SERVER +BLOCKS +CONNECTED +ROUND TRIP +SESSIONS +QUEUE +FREE CACHE +PREFILL +DECODE$/)
    expect(first).toMatch(/^12D3KooWServer +1-3 +yes +1\.23 ms +2 +1 token +1\.0 MiB +800 tokens\/s +- +leads$/)
    expect(second).toMatch(/^12D3KooWOther +- +no( +-)+ +auto$/)
    expect(reason).toBe('12D3KooWOther moves from 1-3 to 3-4: nobody served the blocks 3-4 for 61 s')
    expect(coverage).toEqual(['blocks 1-3 are served by 1 server each', 'blocks 3-4 are served by nobody'])
    expect(JSON.parse((await run(['servers', '--home', root, '--json'])).out)).toEqual(servers)
  })

  it('show what left, what that is worth with its unit, and what that does not cover', async () => {
    const { out } = await run(['privacy', '--home', root])
    expect(out.trim().split('\n')).toEqual([
      'From now on hidden states leave clipped to 3, with noise 0.75, and gradients as they are; the residual stream stays here',
      expect.stringMatching(/^FOR +WHAT +CLIP +NOISE +RELEASES +SEQUENCES +ROWS$/),
      expect.stringMatching(/^training +hidden states +3 +0\.75 +2 +8 +256$/),
      expect.stringMatching(/^generation +hidden states +- +0 +7 +7 +7$/),
      'What that is worth, at delta 0.00001:',
      '- noise 0.75: epsilon 314 (mu 21.3) for one row',
      '- noise 0: no guarantee for one text: 1 row without noise',
      '- training: epsilon 314 (mu 21.3) for one record of one run',
      '- training: epsilon 314 (mu 21.3) for one record of every run',
      '- generation: no guarantee for one text: 7 rows without noise',
      '- in all: no guarantee for everything: 7 rows without noise',
      "1 of the ledger's entries were damaged and are lost: all figures are too low",
      'Not covered:',
      '- the exported adapter'
    ])
    expect(JSON.parse((await run(['privacy', '--home', root, '--json'])).out)).toEqual(released)
  })

  it('print an invite as one line, with its time in milliseconds on the way', async () => {
    const { out } = await run(['invite', '--home', root, '--expires', '2h', '--uses', '3', '--weight', '2'])
    expect(out).toBe('midspan-invite-line\n')
    expect(asked.get('invite')).toEqual({ role: 'client', expiresMs: 7_200_000, uses: 3, weight: 2 })
  })

  it('stream generated text alone to standard output, and the statistics beside it', async () => {
    const { code, out, err } = await run(['generate', '--home', root, '--prompt', 'Once', '--max-tokens', '3', '--top-k', '5', '--stats', '--verify', '100%'])
    expect([code, out]).toEqual([0, 'there was a cat\n'])
    expect(err.split('\n')).toEqual([
      'Check of blocks 1-3 at 12D3KooWFirst: 12D3KooWOther computed the same (6 tokens, distance 0.000012)',
      'Check of blocks 1-3 at 12D3KooWFirst: 12D3KooWFirst computed wrong (6 tokens, distance 0.2, decided by 12D3KooWThird); it is left out of routes from now on',
      'Check of blocks 1-3 at 12D3KooWFirst: 12D3KooWOther computed something else (6 tokens, distance 0.2), and which of them is wrong is not decided: nobody else serves blocks 1-3',
      'Check of blocks 1-3 at 12D3KooWFirst: not checked, since nobody else serves blocks 1-3',
      '3 tokens at 3 tokens/s (the limit ended it), 4 prompt tokens in 0.5s, sent 2.0 KiB, received 1.0 KiB',
      '2 round trips, 1.5 tokens each: 1 token of 2 drafted were next, 6 hidden states released, those of 1 prompt token there from before',
      'blocks 1-3 at 12D3KooWFirst: 6 tokens, 12.3 ms an answer, 25% of the time, handed on directly',
      'blocks 3-4 at 12D3KooWSecond: 12 tokens, 6 of them sent again, 40 ms an answer, 50% of the time',
      'network: 13% of the time',
      ''
    ])
    expect(asked.get('generate')).toEqual({
      prompt: 'Once', maxTokens: 3, temperature: 0, topK: 5, batch: false, handOver: true, timeoutMs: 120_000, toolChoice: 'auto', verify: 1
    })
  })

  it('print a generation as one JSON object', async () => {
    const { type: _type, ...expected } = generated
    const { out } = await run(['generate', '--home', root, '--ids', '1,1', '--json'])
    expect(JSON.parse(out)).toEqual(expected)
    expect(asked.get('generate')).toMatchObject({ ids: [1, 1] })
  })

  it('send messages from a file, and refuse a file that holds none', async () => {
    const file = join(root, 'messages.json')
    await writeFile(file, '[{"role":"user","content":"hi"}]')
    await run(['generate', '--home', root, '--messages', file])
    expect(asked.get('generate')).toMatchObject({ messages: [{ role: 'user', content: 'hi' }] })
    const parts = [{ role: 'user', name: 'ada', content: ['hi', { type: 'text', text: 'there' }] }]
    await writeFile(file, JSON.stringify(parts))
    await run(['generate', '--home', root, '--messages', file])
    expect(asked.get('generate')).toMatchObject({ messages: parts })
    await writeFile(file, '[{"role":"user","content":[{"type":"image"}]}]')
    expect(await run(['generate', '--home', root, '--messages', file])).toMatchObject({
      code: 2,
      err: expect.stringContaining('messages.0.content') as string
    })
    await writeFile(file, '[{"role":"user"}]')
    expect(await run(['generate', '--home', root, '--messages', file])).toMatchObject({
      code: 2,
      err: expect.stringContaining('is not an array of messages') as string
    })
  })

  it('change the blocks of a client, and say what is not exact', async () => {
    const { code, out, err } = await run(['partition', '--home', root, '--input-blocks', '3', '--discard', '--timeout', '1m'])
    expect(code).toBe(0)
    expect(out).toBe(
      'Keeps the first 3 blocks and the last 2 blocks of 8: 47 tensors, 2.0 KiB, all checked against the charter (1.0 KiB fetched)\n' +
        'It kept the first block and the last 2 blocks before\nNoise 0.1 on hidden states: the model stays useful\n'
    )
    expect(err).toContain("Not exactly as before: the blocks that came go on from the middle's adapters\n")
    expect(asked.get('partition')).toEqual({ inputBlocks: 3, discard: true, timeoutMs: 60_000 })
    expect(JSON.parse((await run(['partition', '--home', root, '--output-blocks', '2', '--json'])).out)).toEqual(repartitioned)
    expect(await run(['partition', '--home', root])).toMatchObject({ code: 2, err: expect.stringContaining('--input-blocks') as string })
  })

  it('change nothing in a home that belongs to no federation', async () => {
    const home = join(root, 'absent')
    const { code, err } = await run(['partition', '--input-blocks', '1', '--home', home])
    expect([code, err]).toEqual([2, expect.stringContaining('belongs to no federation')])
  })

  it('print an evaluation for people and for programs', async () => {
    const { out } = await run(['evaluate', '--home', root, '--data', 'x'])
    expect(out).toBe('Loss 1.5000, perplexity 4.48, over 100 tokens of 5 sequences (2.0s, sent 2.0 KiB, received 1.0 KiB)\n')
    expect(JSON.parse((await run(['evaluate', '--home', root, '--data', 'x', '--json'])).out)).toMatchObject({ loss: 1.5, tokens: 100 })
  })

  it.each([['train', '--rounds', '1'], ['evaluate']])('send how the data is to be read: %s', async (name, ...more) => {
    const data = ['--data', 'a.jsonl', '--data', '/b.csv', '--map', 'prompt=asked', '--map', 'completion=to=ld', '--skip-bad-lines']
    const { code } = await run([name, ...more, '--home', root, ...data, '--packing', 'packed', '--loss-on', 'all', '--seed', '7'])
    expect(code).toBe(0)
    expect(asked.get(name)).toMatchObject({
      data: [join(process.cwd(), 'a.jsonl'), '/b.csv'],
      map: { prompt: 'asked', completion: 'to=ld' },
      skipBadLines: true,
      packing: 'packed',
      lossOn: 'all',
      seed: 7
    })
  })

  it('send which words are withheld, who may be in a secure sum, and the form of a text', async () => {
    const withhold = ['--withhold', 'names,numbers,people.txt']
    const peer = '12D3KooWGTAubYxWaqoo3TYmkNiVHhySbixt9XNHeND2YAZMECkd'
    const data = ['--home', root, '--data', 'a.jsonl']
    await run(['train', ...data, '--rounds', '1', ...withhold, '--contributors', peer])
    await run(['evaluate', ...data, ...withhold])
    const schema = { type: 'object', properties: { ward: { enum: ['A', 'B'] } } }
    await writeFile(join(root, 'schema.json'), JSON.stringify(schema))
    await run(['generate', '--home', root, '--prompt', 'x', ...withhold, '--json-schema', join(root, 'schema.json')])
    for (const name of ['train', 'evaluate', 'generate'])
      expect(asked.get(name)).toMatchObject({ withhold: `names,numbers,${join(process.cwd(), 'people.txt')}` })
    expect(asked.get('train')).toMatchObject({ contributors: [peer] })
    expect(asked.get('generate')).toMatchObject({ jsonSchema: schema })
  })

  it('ask for a sweep of settings, its time and the leak that is allowed, which an audit alone does not take', async () => {
    const data = ['audit', '--home', root, '--data', 'a.jsonl']
    await run([...data, '--sweep', 'withhold, noise,noise', '--budget', '90s', '--max-leak', '0.5'])
    expect(asked.get('auditSweep')).toMatchObject({ axes: ['withhold', 'noise'], budgetMs: 90_000, maxLeak: 0.5 })
    expect(await run([...data, '--max-leak', '0.5'])).toMatchObject({ code: 2, err: expect.stringContaining('--max-leak is for a sweep') as string })
    expect(asked.has('audit')).toBe(false)
  })

  it('tell what the daemon refused, with the exit code of its kind', async () => {
    expect(await run(['export', '--home', root, '--out', 'x'])).toEqual({
      code: 2,
      out: '',
      err: 'midspan: nothing was trained yet (train first)\n'
    })
  })

  it('stop training on Ctrl-C, hanging up, and say how to resume', async () => {
    const training = new MidspanProcess(['train', '--home', root, '--data', 'notes.jsonl', '--json'])
    const start = JSON.parse(`{"type":"start"${await training.line('{"type":"start"')}`) as object
    expect(start).toMatchObject({ records: 12 })
    await training.line('{"type":"round"')
    const { code, err } = await training.stop('SIGINT')
    expect([code, err]).toEqual([130, 'midspan: interrupted (run it again to resume)\n'])
    await hungUp
    expect(asked.get('train')).toMatchObject({ data: [join(process.cwd(), 'notes.jsonl')], rounds: 100 })
  })
})
