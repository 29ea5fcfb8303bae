import { readFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { RemoteStage } from '../../src/roles/middle/remote-stage.ts'
import type { StageCache } from '../../src/roles/middle/stage.ts'
import { bytesOf, tensorRows, type Tensor } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { original } from '../helpers/original.ts'
import { watchReleases } from '../helpers/releases.ts'
import { mixedPartitions, type GenerationResult, type TestClient, type TestPeer } from './helpers.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const MODEL = 'stories260K-hf'
const BOS = 1
const TOKENS = 60
const sampling = { temperature: 0.9, topK: 40, seed: 11 }

/** The client carries the hidden states: handover.test.ts has servers that hand over. */
const carried = { handOver: false }

type Result = GenerationResult & {
  readonly route: ReadonlyArray<{
    readonly server: string,
    readonly blocks: { readonly first: number, readonly end: number },
    readonly tokens: number,
    readonly replayedTokens: number,
    readonly share: number
  }>
}

/** Generates, and lets something happen after some pieces of text. Returns the result and what the client said that it waited for. */
async function disturbed (
  client: TestClient,
  parameters: object,
  after: number,
  disturb: () => Promise<void>
): Promise<{ result: Result, waits: string[] }> {
  const waits: string[] = []
  let pieces = 0
  let last: object | undefined
  let disturbing = Promise.resolve()
  for await (const event of client.peer.events('generate', { ids: [BOS], maxTokens: TOKENS, ...carried, ...parameters })) {
    const { type, reason } = event as { type: string, reason?: string }
    if (type === 'waiting') waits.push(reason ?? '')
    if (type === 'text' && ++pieces === after) disturbing = disturb()
    last = event
  }
  await disturbing
  expect(pieces).toBeGreaterThanOrEqual(after)
  return { result: last as Result, waits }
}

const isUsed = ({ daemon }: TestPeer): boolean => (daemon.status().generation?.sequences ?? 0) > 0

describe.skipIf(!hasData(MODEL))('generation over several servers', { timeout: 120_000 }, () => {
  const sample = hasData(MODEL) ? JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[] : []
  const greedy = sample.slice(1, TOKENS + 1)

  describe('in series', () => {
    let federation: WorkersFederation
    beforeAll(async () => {
      federation = await startWorkers({ model: dataPath(MODEL), clients: mixedPartitions }, {
        founder: { first: 1, end: 2 },
        workers: [{ first: 2, end: 3 }, { first: 3, end: 4 }]
      })
    }, 120_000)
    afterAll(async () => { await federation.stop() })

    it('gives the published sample over two and three servers, whatever the partition, also when all generate at once', async () => {
      const results = await Promise.all(
        federation.clients.map(async (client) =>
          await client.generate({ ids: [BOS], maxTokens: TOKENS, ...carried })) as Array<Promise<Result>>
      )
      for (const { ids } of results) expect(ids).toEqual(greedy)
      const [first, second, third] = [federation.server, ...federation.workers].map(({ peerId }) => peerId)
      expect(results.map(({ route }) => route.map(({ server, blocks }) => [server, blocks.first, blocks.end]))).toEqual([
        [[first, 1, 2], [second, 2, 3], [third, 3, 4]],
        [[second, 2, 3], [third, 3, 4]],
        [[first, 1, 2], [second, 2, 3]]
      ])
    })

    it('is what the status of a client shows before', async () => {
      const { route } = await federation.clients[1]!.peer.ask<ResultOf<'status'>>('status')
      const [second, third] = federation.workers.map(({ peerId }) => peerId)
      expect(route).toMatchObject({
        legs: [{ server: second, blocks: { first: 2, end: 3 } }, { server: third, blocks: { first: 3, end: 4 } }], missing: []
      })
    })

    it('says which servers carried the text, and what each took', async () => {
      const { route, sentBytes } = await federation.clients[0]!.generate({ ids: [BOS], maxTokens: 20, ...carried }) as Result
      for (const leg of route) expect(leg).toMatchObject({ tokens: 20, replayedTokens: 0, handsOver: false })
      const share = route.reduce((sum, leg) => sum + leg.share, 0)
      expect(share).toBeGreaterThan(0)
      expect(share).toBeLessThanOrEqual(1)
      expect(sentBytes).toBeGreaterThan(3 * 20 * 64 * 4)
    })

    it('goes on when the only holder of a block was killed and is back, and says what it waited for', async () => {
      const [worker] = federation.workers
      const { result, waits } = await disturbed(federation.clients[0]!, {}, 10, async () => {
        await worker!.stop()
        await worker!.start()
      })
      expect(result.ids).toEqual(greedy)
      expect(waits.some((reason) => reason.startsWith(`blocks 2-3: nobody serves them now (${worker!.peerId}`))).toBe(true)
    })
  })

  it('goes on without the coordinator where the coordinator has no block of the middle, and says so', async () => {
    const federation = await startWorkers({ model: dataPath(MODEL), clients: [{ inputBlocks: 2, outputBlocks: 1 }] }, {
      founder: { first: 1, end: 2 },
      workers: [{ first: 2, end: 4 }]
    })
    onTestFinished(async () => { await federation.stop() })
    await federation.server.stop()
    const events = await Array.fromAsync(federation.clients[0]!.peer.events('generate', { ids: [BOS], maxTokens: 10 }))
    expect(events.at(-1)).toMatchObject({ ids: greedy.slice(0, 10) })
    expect(events[0]).toMatchObject({
      type: 'waiting', reason: expect.stringContaining('with the adapters that this client has') as string
    })
  })

  describe('with two holders of a span', () => {
    let federation: WorkersFederation
    let sampled: number[]
    beforeAll(async () => {
      federation = await startWorkers({ model: dataPath(MODEL), clients: [{}] }, {
        founder: { first: 1, end: 2 },
        workers: [{ first: 2, end: 4 }, { first: 2, end: 4 }]
      })
      sampled = (await federation.clients[0]!.generate({ ids: [BOS], maxTokens: TOKENS, ...carried, ...sampling })).ids
    }, 120_000)
    afterAll(async () => { await federation.stop() })

    it.each([1, 25])('goes on token for token, greedy and sampled, when the one in use is killed after %i pieces of text', async (after) => {
      for (const parameters of [{}, sampling]) {
        let killed: TestPeer | undefined
        const { result } = await disturbed(federation.clients[0]!, parameters, after, async () => {
          killed = federation.workers.find(isUsed)
          await killed?.stop()
        })
        expect(killed).toBeDefined()
        await killed!.start()
        expect(result.ids).toEqual('seed' in parameters ? sampled : greedy)
        const legs = result.route.filter(({ blocks }) => blocks.first === 2)
        expect(legs.map(({ server }) => server).sort()).toEqual(federation.workers.map(({ peerId }) => peerId).sort())
        const other = legs.find(({ server }) => server !== killed!.peerId)
        expect(other!.replayedTokens).toBeGreaterThanOrEqual(after)
        expect(result.route.filter(({ blocks }) => blocks.first === 1)).toMatchObject([{ replayedTokens: 0 }])
      }
    })
  })

  describe('with noise', () => {
    afterEach(() => { vi.restoreAllMocks() })

    it('sends a server that takes over the very states that were released, and draws no noise again', async () => {
      const federation = await startWorkers({
        model: dataPath(MODEL),
        charter: { noise: 0.5, clip: 4 },
        clients: [{ noise: 0.5 }]
      }, { founder: { first: 3, end: 4 }, workers: [{ first: 1, end: 3 }, { first: 1, end: 3 }] })
      onTestFinished(async () => { await federation.stop() })
      const released: string[] = []
      watchReleases((_, { tensors }) => { released.push(...rowsOf(tensors)) })
      /** What each server that has the first block was sent, from the first position on. */
      const sent: string[][] = []
      const openCache = original(RemoteStage, 'openCache')
      vi.spyOn(RemoteStage.prototype, 'openCache').mockImplementation(async function (this: RemoteStage, span, ...more) {
        const cache = await openCache.call(this, span, ...more)
        if (span.first !== 1) return cache
        const rows: string[] = []
        sent.push(rows)
        const forward: StageCache['forward'] = cache.forward.bind(cache)
        cache.forward = async (states, signal) => {
          rows.push(...rowsOf(states.tensors))
          return await forward(states, signal)
        }
        return cache
      })
      const { result } = await disturbed(federation.clients[0]!, { maxTokens: 30 }, 12, async () => {
        await federation.workers.find(isUsed)?.stop()
      })
      expect(result.ids).toHaveLength(30)
      expect(sent).toHaveLength(2)
      for (const rows of sent) {
        expect(rows.length).toBeGreaterThan(10)
        expect(rows).toEqual(released.slice(0, rows.length))
      }
      expect(sent[1]).toHaveLength(30)
    })
  })
})

/** Returns the bytes of each row, as text. */
function rowsOf (tensors: readonly Tensor[]): string[] {
  const count = tensors[0]!.shape[0]!
  return Array.from({ length: count }, (_, row) =>
    tensors.map((part) => Buffer.from(bytesOf(tensorRows(part, row, row + 1))).toString('hex')).join(' '))
}
