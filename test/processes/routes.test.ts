import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { SeededRandom } from '../../src/model/random.ts'
import { ControlClient } from '../../src/node/control/client.ts'
import { joinAsServer } from '../../src/node/federation/join-server.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { MidspanProcess } from '../cli/process.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { startFederation, type TestFederation } from '../roles/helpers.ts'
import { connectedTo } from '../roles/workers.ts'

const MODEL = 'stories260K-hf'
const BOS = 1
const TOKENS = 80
const KILLS = 2
const BLOCKS = { first: 2, end: 4 }
const sampling = { temperature: 0.9, topK: 40, seed: 11 }

describe.skipIf(!hasData(MODEL))('two servers in processes of their own that have the same blocks', { timeout: 240_000 }, () => {
  const greedy = hasData(MODEL)
    ? (JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[]).slice(1, TOKENS + 1)
    : []
  let sampled: number[]
  let federation: TestFederation
  const workers = new Map<string, MidspanProcess>()

  const start = async (name: string): Promise<void> => {
    const daemon = new MidspanProcess(
      ['daemon', '--home', federation.path(name), '--threads', '1', '--listen', '/ip4/127.0.0.1/tcp/0']
    )
    workers.set(name, daemon)
    await daemon.line('Daemon is ready')
  }
  const everybody = async (): Promise<void> => { await connectedTo(federation.clients[0]!.peer, 1 + workers.size) }

  /** The worker that computes a sequence now. */
  async function used (): Promise<string> {
    for (const name of workers.keys()) {
      const status = await new ControlClient(homeAt(federation.path(name))).request('status', {}, AbortSignal.timeout(10_000))
      if ((status.generation?.sequences ?? 0) > 0) return name
    }
    throw new Error('no worker holds a sequence')
  }

  /** Generates, and does something to the worker in use after some pieces of text. */
  async function disturbed (
    parameters: object,
    after: number,
    disturb: (worker: string) => Promise<void> | void
  ): Promise<ResultOf<'generate'>> {
    let pieces = 0
    let last: object = {}
    for await (const event of federation.clients[0]!.peer.events('generate', { ids: [BOS], maxTokens: TOKENS, ...parameters })) {
      if ((event as { type: string }).type === 'text' && ++pieces === after) await disturb(await used())
      last = event
    }
    expect(pieces).toBeGreaterThanOrEqual(after)
    return last as ResultOf<'generate'>
  }

  beforeAll(async () => {
    federation = await startFederation({ model: dataPath(MODEL), charter: { blocks: { first: 1, end: 2 } }, clients: [{}] })
    for (const name of ['worker-0', 'worker-1']) {
      const { invite } = await federation.server.ask<ResultOf<'invite'>>('invite', { role: 'server', expiresMs: 60_000, uses: 1 })
      await joinAsServer(federation.path(name), { invite, blocks: BLOCKS, model: dataPath(MODEL) }, AbortSignal.timeout(60_000))
      await start(name)
    }
    await everybody()
    sampled = (await federation.clients[0]!.generate({ ids: [BOS], maxTokens: TOKENS, ...sampling })).ids
  }, 120_000)
  afterAll(async () => {
    for (const worker of workers.values()) await worker.stop('SIGKILL')
    await federation.stop()
  })

  it('take over from each other, token for token, when the one in use is killed at any time', async () => {
    const random = new SeededRandom('kills')
    for (let kill = 0; kill < KILLS; kill++) {
      let killed = ''
      const isSampled = kill % 2 === 1
      // The text is shorter in pieces than in tokens: some tokens end no character.
      const { ids, route } = await disturbed(isSampled ? sampling : {}, 1 + random.below(TOKENS / 2), async (worker) => {
        killed = worker
        await workers.get(worker)!.stop('SIGKILL')
      })
      expect(ids).toEqual(isSampled ? sampled : greedy)
      expect(route.filter(({ blocks }) => blocks.first === BLOCKS.first)).toHaveLength(2)
      await start(killed)
      await everybody()
    }
  })

  it('take over when the one in use is stopped and answers nothing', async () => {
    let stopped = ''
    const { ids, route } = await disturbed({}, 20, (worker) => {
      stopped = worker
      workers.get(worker)!.kill('SIGSTOP')
    })
    workers.get(stopped)!.kill('SIGCONT')
    expect(ids).toEqual(greedy)
    expect(Math.max(...route.map(({ replayedTokens }) => replayedTokens))).toBeGreaterThanOrEqual(20)
  })
})
