import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { HANDOVER_PROTOCOL } from '../../src/protocols/handover/constants.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { mixedPartitions, type TestClient, type TestPeer } from './helpers.ts'
import { disturbed, generated, sampling, type GeneratedOverRoute } from './routes.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const MODEL = 'stories260K-hf'
const TOKENS = 60

/** The client carries the hidden states from server to server. */
const carried = { handOver: false }

const chainOf = ({ route }: GeneratedOverRoute): unknown =>
  route.map(({ server, blocks, handsOver }) => [server, blocks.first, blocks.end, handsOver])

describe.skipIf(!hasData(MODEL))('servers in series', { timeout: 120_000 }, () => {
  const sample = hasData(MODEL) ? JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[] : []
  const greedy = sample.slice(1, TOKENS + 1)
  let federation: WorkersFederation
  beforeAll(async () => {
    federation = await startWorkers({ model: dataPath(MODEL), clients: mixedPartitions }, {
      founder: { first: 1, end: 2 },
      workers: [{ first: 2, end: 3 }, { first: 3, end: 4 }]
    })
  }, 120_000)
  afterAll(async () => { await federation.stop() })

  const restart = async (peer: TestPeer): Promise<void> => {
    await peer.stop()
    await peer.start()
  }

  describe('that the client carries to', () => {
    it('give the published sample over two and three servers, whatever the partition, also when all generate at once', async () => {
      const parameters = { maxTokens: TOKENS, ...carried }
      const results = await Promise.all(federation.clients.map(async (client) => await generated(client, parameters)))
      for (const { ids } of results) expect(ids).toEqual(greedy)
      const [first, second, third] = [federation.server, ...federation.workers].map(({ peerId }) => peerId)
      expect(results.map(chainOf)).toEqual([
        [[first, 1, 2, false], [second, 2, 3, false], [third, 3, 4, false]],
        [[second, 2, 3, false], [third, 3, 4, false]],
        [[first, 1, 2, false], [second, 2, 3, false]]
      ])
    })

    it('are what the status of a client shows before', async () => {
      const { route } = await federation.clients[1]!.peer.ask<ResultOf<'status'>>('status')
      const [second, third] = federation.workers.map(({ peerId }) => peerId)
      expect(route).toMatchObject({
        legs: [{ server: second, blocks: { first: 2, end: 3 } }, { server: third, blocks: { first: 3, end: 4 } }], missing: []
      })
    })

    it('are named with what each took of the text', async () => {
      const { route, sentBytes } = await generated(federation.clients[0]!, { maxTokens: 20, ...carried })
      for (const leg of route) expect(leg).toMatchObject({ tokens: 20, replayedTokens: 0, handsOver: false })
      const share = route.reduce((sum, leg) => sum + leg.share, 0)
      expect(share).toBeGreaterThan(0)
      expect(share).toBeLessThanOrEqual(1)
      expect(sentBytes).toBeGreaterThan(3 * 20 * 64 * 4)
    })

    it('go on when the only holder of a block was killed and is back, and the client says what it waited for', async () => {
      const [worker] = federation.workers as [TestPeer]
      const { result, waits } = await disturbed(federation.clients[0]!, { maxTokens: TOKENS, ...carried }, 10, async () => {
        await restart(worker)
      })
      expect(result.ids).toEqual(greedy)
      expect(waits.some((reason) => reason.startsWith(`blocks 2-3: nobody serves them now (${worker.peerId}`))).toBe(true)
    })
  })

  describe('that hand over to one another', () => {
    it('give the published sample, over two and three servers, whatever the partition, also when all generate at once', async () => {
      const results = await Promise.all(federation.clients.map(async (client) => await generated(client, { maxTokens: TOKENS })))
      for (const { ids } of results) expect(ids).toEqual(greedy)
      const [first, second, third] = [federation.server, ...federation.workers].map(({ peerId }) => peerId)
      expect(results.map(chainOf)).toEqual([
        [[first, 1, 2, true], [second, 2, 3, true], [third, 3, 4, false]],
        [[second, 2, 3, true], [third, 3, 4, false]],
        [[first, 1, 2, true], [second, 2, 3, false]]
      ])
    })

    it('give the sampled text of servers that the client carries to', async () => {
      const [client] = federation.clients as [TestClient]
      expect((await generated(client, sampling)).ids).toEqual((await generated(client, { ...sampling, ...carried })).ids)
    })

    it('send the client the last ones\' hidden states alone', async () => {
      const [client] = federation.clients as [TestClient]
      const [handed, apart] = [await generated(client), await generated(client, carried)]
      expect(handed.sentBytes).toBeLessThan(apart.sentBytes / 2)
    })

    it('keep nothing of a sequence that ended', async () => {
      await generated(federation.clients[0]!)
      await vi.waitFor(() => {
        for (const { daemon } of [federation.server, ...federation.workers]) {
          expect(daemon.status().generation?.sequences).toBe(0)
          const streams = daemon.node.getConnections().flatMap((connection) => connection.streams)
          expect(streams.filter(({ protocol }) => protocol === HANDOVER_PROTOCOL)).toEqual([])
        }
      }, { timeout: 60_000 })
    })

    it('go on when the only holder of a block was killed and is back', async () => {
      const { result: { ids } } = await disturbed(federation.clients[0]!, { maxTokens: TOKENS }, 10, async () => {
        await restart(federation.workers[0]!)
      })
      expect(ids).toEqual(greedy)
    })
  })
})
