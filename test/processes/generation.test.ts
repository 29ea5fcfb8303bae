import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ControlClient } from '../../src/node/control/client.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { midspan, MidspanProcess, withoutProgress } from '../cli/process.ts'
import { dataPath, hasData } from '../helpers/data.ts'

const MODEL = 'stories260K-hf'
const BOS = 1

describe.skipIf(!hasData(MODEL))('a server and its clients in processes of their own', { timeout: 180_000 }, () => {
  let root: string
  let sample: number[]
  let address: string
  let server: MidspanProcess
  const daemons: MidspanProcess[] = []
  const home = (name: string): string => join(root, name)

  const command = async (...args: string[]): Promise<string> => {
    const { code, out, err } = await midspan(args)
    expect([code, withoutProgress(err)]).toEqual([0, ''])
    return out
  }
  const start = async (name: string, ...args: string[]): Promise<MidspanProcess> => {
    const daemon = new MidspanProcess(['daemon', '--home', home(name), '--threads', '1', ...args])
    daemons.push(daemon)
    await daemon.line('Daemon is ready')
    return daemon
  }
  const generate = async (name: string, tokens = 256): Promise<number[]> => {
    const { ids } = JSON.parse(
      await command('generate', '--home', home(name), '--ids', String(BOS), '--max-tokens', String(tokens), '--json')
    ) as { ids: number[] }
    return [BOS, ...ids]
  }

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-generation-'))
    sample = JSON.parse(await readFile(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[]
    await command(
      'init',
      '--home',
      home('s'),
      '--model',
      dataPath(MODEL),
      '--name',
      'stories',
      '--wire',
      'fp32',
      '--input-blocks',
      '1..2',
      '--output-blocks',
      '1..2',
      '--admission',
      'open'
    )
    server = await start('s', '--listen', '/ip4/127.0.0.1/tcp/0')
    address = await server.line('Listening on ')
  }, 120_000)
  afterAll(async () => {
    for (const daemon of daemons.reverse()) await daemon.stop()
    await rm(root, { recursive: true, force: true })
  })

  it.each([[1, 3, 1], [2, 2, 1], [1, 2, 2]])(
    'generate the published ids, cut as %i|%i|%i',
    async (inputBlocks, middle, outputBlocks) => {
      const name = `${inputBlocks}${middle}${outputBlocks}`
      await command('join', address, '--home', home(name), '--input-blocks', String(inputBlocks), '--output-blocks', String(outputBlocks))
      await start(name)
      expect(sample).toHaveLength(1 + 256)
      // All of them come in the next test, of each cut.
      expect(await generate(name, 32)).toEqual(sample.slice(0, 1 + 32))
    }
  )

  it('generate all 256 at the same time', async () => {
    expect(await Promise.all(['131', '221', '122'].map(async (name) => await generate(name)))).toEqual([sample, sample, sample])
  })

  it('go on token for token when the server is killed meanwhile and started again, and say that they wait', async () => {
    const listen = address.split('/p2p/')[0] ?? ''
    const events: Array<{ type: string, ids?: number[], reason?: string, text?: string }> = []
    let restarted: Promise<unknown> | undefined
    for await (
      const event of new ControlClient(homeAt(home('131'))).stream(
        'generate',
        { ids: [BOS], maxTokens: 256 },
        AbortSignal.timeout(120_000)
      )
    ) {
      events.push(event as typeof events[number])
      if (events.filter(({ type }) => type === 'text').length === 20 && restarted === undefined) {
        await server.stop('SIGKILL')
        restarted = start('s', '--listen', listen).then((daemon) => { server = daemon })
      }
    }
    await restarted
    expect(events.filter(({ type }) => type === 'waiting').length).toBeGreaterThan(0)
    expect([BOS, ...events.at(-1)?.ids ?? []]).toEqual(sample)
  })
})
