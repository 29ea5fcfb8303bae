import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { DaemonStatus } from '../../src/node/daemon/daemon-status.ts'
import { readMembership } from '../../src/node/federation/membership.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { run } from './helpers.ts'
import { midspan, MidspanProcess, withoutProgress, type Finished } from './process.ts'

const repository = fileURLToPath(new URL('../../', import.meta.url))
const node = fileURLToPath(new URL('../../node_modules/.bin/node', import.meta.url))

const MODEL = 'stories260K-hf'
const NOWHERE = '/ip4/127.0.0.1/tcp/1'

/** A refusal: one line on standard error that has `message`, what to do in brackets, and nothing on standard output. */
function expectRefusal ({ code, out, err }: Finished, exitCode: number, message: string | RegExp): void {
  const refusal = withoutProgress(err)
  expect(refusal).toMatch(/^midspan: [^\n]+ \([^\n]+\)\n$/)
  expect(refusal).toMatch(message)
  expect([code, out]).toEqual([exitCode, ''])
}

describe.skipIf(!hasData(MODEL))('a federation, from the command line', { timeout: 60_000 }, () => {
  let root: string
  let daemon: MidspanProcess
  let address: string
  const home = (name: string): string => join(root, name)
  const init = async (name: string, ...args: string[]): Promise<Finished> =>
    await run(['init', '--home', home(name), '--name', 'stories', ...args])
  const invite = async (): Promise<string> => (await run(['invite', '--home', home('s')])).out.trim()

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-federation-'))
    const founded = await init(
      's',
      '--model',
      dataPath(MODEL),
      '--input-blocks',
      '1..2',
      '--output-blocks',
      '1..2',
      '--noise',
      '0.5',
      '--clip',
      '10'
    )
    expect([founded.code, withoutProgress(founded.err)]).toEqual([0, ''])
    daemon = new MidspanProcess(['daemon', '--home', home('s'), '--listen', '/ip4/127.0.0.1/tcp/0'])
    address = await daemon.line('Listening on ')
    await daemon.line('Daemon is ready')
  }, 60_000)

  it.each([
    [['--strategy', 'server-hierarchical', '--average-every', '3'], { strategy: 'server-hierarchical', averageEvery: 3 }],
    [['--aggregation', 'secure:4'], { aggregation: { mode: 'secure', minContributors: 4 } }]
  ])('writes how adapters are put together into the charter: %s', async (options, written) => {
    const { code } = await init(options.at(-1)!, '--model', dataPath(MODEL), '--clip', '10', '--input-blocks', '1', '--output-blocks', '1', ...options)
    expect(code).toBe(0)
    expect((await readMembership(homeAt(home(options.at(-1)!)))).signed.charter).toMatchObject(written)
  })

  afterAll(async () => {
    const { code } = await daemon.stop()
    await rm(root, { recursive: true })
    expect(code).toBe(0)
  })

  it('has a daemon that says who and where it is, and then that it is ready', () => {
    expect(daemon.out).toMatch(
      /^Peer 12D3KooW\w+, a server \(midspan\/[\d.]+\)\nFederation stories \([0-9a-f]{64}\)\n(?:Serving blocks \d to \d|Computing) on cpu[^\n]*\n(?:Listening on \/[^\n]+\n)+Daemon is ready\n$/
    )
    expect(address).toMatch(/^\/ip4\/127\.0\.0\.1\/tcp\/\d+\/p2p\/12D3KooW\w+$/)
  })

  it('refuses a model directory that is not there', async () => {
    expectRefusal(await midspan(['init', '--home', home('x'), '--name', 'x', '--model', home('absent')]), 2, home('absent'))
  })

  it('refuses an architecture that it does not know', async () => {
    const model = home('gpt')
    await cp(dataPath(MODEL), model, { recursive: true })
    const config = JSON.parse(await readFile(join(model, 'config.json'), 'utf8')) as object
    await writeFile(
      join(model, 'config.json'),
      JSON.stringify({ ...config, model_type: 'gpt_neox', architectures: ['GPTNeoXForCausalLM'] })
    )
    expectRefusal(await init('x', '--model', model), 2, /gpt_neox|GPTNeoX/)
  })

  it('refuses partitions that leave no middle', async () => {
    expectRefusal(await init('x', '--model', dataPath(MODEL), '--input-blocks', '1..3', '--output-blocks', '1..3'), 2, 'middle')
  })

  it('refuses to found a second federation in a home', async () => {
    await init('t', '--model', dataPath(MODEL))
    expectRefusal(await init('t', '--model', dataPath(MODEL)), 2, 'already belongs to a federation')
  })

  it('refuses a second daemon in a home', async () => {
    expectRefusal(await midspan(['daemon', '--home', home('s')]), 2, 'in use')
  })

  it('refuses a daemon in a home without a federation', async () => {
    expectRefusal(await midspan(['daemon', '--home', home('empty')]), 2, 'belongs to no federation')
  })

  it('refuses a port that another process has', async () => {
    await init('u', '--model', dataPath(MODEL))
    expectRefusal(await midspan(['daemon', '--home', home('u'), '--listen', address.replace(/\/p2p\/.*/, '')]), 2, /in use/)
  })

  it('refuses to join with what is neither an invite nor a multiaddr', async () => {
    expectRefusal(await run(['join', 'localhost', '--home', home('a')]), 2, 'localhost')
  })

  it('cannot join where nobody listens', async () => {
    const peerId = address.replace(/.*\/p2p\//, '')
    expectRefusal(await run(['join', `${NOWHERE}/p2p/${peerId}`, '--home', home('a')]), 5, 'cannot be reached')
  })

  it('refuses to let a stranger join', async () => {
    expectRefusal(await midspan(['join', address, '--home', home('stranger')]), 4, /invite|admit/)
  })

  it('refuses a partition outside the charter, naming it', async () => {
    expectRefusal(await run(['join', await invite(), '--home', home('b'), '--input-blocks', '3']), 4, /input/i)
  })

  it('refuses blocks with an invite for a client, and an invite for a server without blocks', async () => {
    expectRefusal(await run(['join', await invite(), '--home', home('w'), '--blocks', '1-3']), 2, /invite is for a client/)
    const forServer = (await run(['invite', '--home', home('s'), '--role', 'server'])).out.trim()
    expectRefusal(await run(['join', forServer, '--home', home('w')]), 2, /--blocks FIRST-END/)
    expectRefusal(await run(['join', forServer, '--home', home('w'), '--blocks', '3-1']), 2, /'3-1' is not a span/)
    expectRefusal(await run(['join', forServer, '--home', home('w'), '--blocks', '1-3', '--noise', '1']), 2, /for servers/)
    expectRefusal(await run(['join', forServer, '--home', home('w'), '--blocks', 'auto']), 2, /--memory SIZE/)
    expectRefusal(await run(['join', forServer, '--home', home('w'), '--blocks', 'auto', '--memory', '1MiB']), 2, /too small for one block/)
  })

  it('joins as a server with blocks, and again without naming them', async () => {
    const forServer = (await run(['invite', '--home', home('s'), '--role', 'server'])).out.trim()
    const { out } = await run(['join', forServer, '--home', home('w'), '--blocks', '2-4', '--weights', 'int8'])
    expect(out).toMatch(/^Joined stories \([0-9a-f]{64}\) as the server 12D3KooW\w+\nServes the blocks 2-4 of 5: \d+ tensors/)
    expect((await run(['join', forServer, '--home', home('w')])).out).toMatch(/^Updated the way to stories .*\nServes the blocks 2-4 of 5/)
    expect((await run(['join', address, '--home', home('w')])).out).toMatch(/^Updated the way to stories .*\nServes the blocks 2-4 of 5/)
    expect(await readFile(join(home('w'), 'config.yaml'), 'utf8')).toBe('role: server\nblocks: 2-4\nweights: int8\n')
  })

  it('refuses less noise than the floor, naming it', async () => {
    expectRefusal(await run(['join', await invite(), '--home', home('c'), '--noise', '0.1']), 4, 'noise')
  })

  it('lets the holder of an invite join, run, be seen and leave', async () => {
    const joined = await midspan(['join', await invite(), '--home', home('a'), '--input-blocks', '2', '--noise', '0.7'])
    expect([joined.code, withoutProgress(joined.err)]).toEqual([0, ''])
    const client = new MidspanProcess(['daemon', '--home', home('a')])
    try {
      await client.line('Daemon is ready')
      expect(client.out).toContain('Holding the first 2 blocks and the last block on cpu')
      const status = JSON.parse((await run(['status', '--home', home('a'), '--json'])).out) as DaemonStatus
      expect(status).toMatchObject({ role: 'client', partition: { inputBlocks: 2, outputBlocks: 1 } })
      const { peers } = JSON.parse((await run(['peers', '--home', home('s'), '--json'])).out) as { peers: Array<{ peerId: string }> }
      expect(peers.map(({ peerId }) => peerId)).toContain(status.peerId)
      expect(await run(['leave', '--home', home('a')])).toMatchObject({ code: 0 })
    } finally {
      await client.stop()
    }
  })

  it('lets a holder join with an invite that mail quoted, on a standard input that stays open', async () => {
    const line = await invite()
    const child = spawn(node, ['bin/midspan.js', 'join', '-', '--home', home('mail')], { cwd: repository, stdio: ['pipe', 'pipe', 'pipe'] })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (part: string) => { text += part })
    child.stderr.setEncoding('utf8').on('data', (part: string) => { text += part })
    child.stdin.write(`Hello,\n\n> ${line.match(/.{1,60}/g)!.join('\n> ')}\n\nBob\n`)
    expect(await once(child, 'close')).toEqual([0, null])
    expect(withoutProgress(text)).toMatch(/^Joined stories /)
    expect(text).not.toContain('midspan:')
  })

  it('lets a holder join with an invite in a file', async () => {
    const file = home('invite.txt')
    await writeFile(file, `"${await invite()}"\n`)
    const { code, err } = await run(['join', '--invite-file', file, '--home', home('filed')])
    expect([code, withoutProgress(err)]).toEqual([0, ''])
  })

  it('removes nobody who is no peer', async () => {
    expectRefusal(await run(['remove', 'somebody', '--home', home('s')]), 2, 'the peer is not an Ed25519 peer id')
  })

  it('refuses data in which no line can be used, naming the file', async () => {
    await mkdir(home('data'))
    const file = join(home('data'), 'broken.jsonl')
    await writeFile(file, '{"nothing": 1}\nnot JSON\n')
    await run(['join', await invite(), '--home', home('d')])
    const client = new MidspanProcess(['daemon', '--home', home('d')])
    try {
      await client.line('Daemon is ready')
      const refused = await midspan(['train', '--home', home('d'), '--data', file, '--rounds', '1'])
      expectRefusal(refused, 2, 'broken.jsonl')
    } finally {
      await client.stop()
    }
  })
})
