import { readFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { RemoteStage } from '../../src/roles/middle/remote-stage.ts'
import type { StageCache } from '../../src/roles/middle/stage.ts'
import { bytesOf, tensorRows, type Tensor } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { original } from '../helpers/original.ts'
import { watchReleases } from '../helpers/releases.ts'
import type { TestPeer } from './helpers.ts'
import { BOS, disturbed, sampling } from './routes.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const MODEL = 'stories260K-hf'
const TOKENS = 60

/** The client carries the hidden states: series.test.ts and handover.test.ts have servers that hand over. */
const carried = { handOver: false }

const isUsed = ({ daemon }: TestPeer): boolean => (daemon.status().generation?.sequences ?? 0) > 0

describe.skipIf(!hasData(MODEL))('generation over several servers', { timeout: 120_000 }, () => {
  const sample = hasData(MODEL) ? JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[] : []
  const greedy = sample.slice(1, TOKENS + 1)

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
        const { result } = await disturbed(federation.clients[0]!, { maxTokens: TOKENS, ...carried, ...parameters }, after, async () => {
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
      const { result } = await disturbed(federation.clients[0]!, { maxTokens: 30, ...carried }, 12, async () => {
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
